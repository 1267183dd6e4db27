"""The stacks that a process prints when a fatal signal ends it: SIGABRT, as from a watchdog, or a crash.

They are written to standard error while nothing else runs any more, by system calls that wait for a reader. So that
a reader who has stopped can't keep the process from its end, an alarm ends it (SIGALRM) when time is up.
"""

from __future__ import annotations

import faulthandler

from cython.cimports.virtiod.core.fatal import bound_fatal


def bound_last_words(seconds: int) -> None:
    """Has fatal signals print the stacks of all threads, for so long at most. Main thread only; once."""
    faulthandler.enable()
    bound_fatal(seconds)
