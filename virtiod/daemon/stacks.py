"""SIGUSR1 has the daemon log where each of its threads is, also when the event loop is stuck.

faulthandler writes while the signal interrupts whatever runs, so it writes into a pipe that makes nobody wait; a
thread reads it, and logs. (Where a thread keeps the GIL for ever, only SIGABRT tells: it ends the process.)
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import select
import signal
import threading
from collections.abc import Callable

_PIPE_BYTES = 1 << 18  # more than the stacks of a hundred threads
_SETTLE_MS = 200  # the stacks are complete when nothing has come for so long


def log_stacks_when_asked(log: Callable[[str], None]) -> None:
    """From now on, as long as the process lives, log is handed the stacks at each SIGUSR1, in a thread of its own."""
    reads, writes = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writes, False)
    with contextlib.suppress(OSError):  # an unprivileged user has a limit for all pipes
        fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    threading.Thread(target=_read, args=(reads, log), name="stacks", daemon=True).start()
    faulthandler.register(signal.SIGUSR1, file=writes, all_threads=True)


def _read(pipe: int, log: Callable[[str], None]) -> None:
    settled = select.poll()
    settled.register(pipe, select.POLLIN)
    while True:
        stacks = os.read(pipe, _PIPE_BYTES)
        while len(stacks) < _PIPE_BYTES and settled.poll(_SETTLE_MS):
            stacks += os.read(pipe, _PIPE_BYTES)
        log(stacks.decode(errors="replace"))
