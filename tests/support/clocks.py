"""Time as threads had it: what a busy machine took away from them is not held against them.

The kernel counts for each thread how long it ran, and how long it wanted to and had no core (schedstat).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def threads(pid: int | None = None) -> list[Path]:
    """Those of a process, this one if none is named; each as its folder in /proc."""
    return sorted(Path(f"/proc/{pid or os.getpid()}/task").iterdir())


def thread(tid: int) -> Path:
    return Path(f"/proc/{tid}/task/{tid}")


def ran_s(some: Iterable[Path]) -> float:
    """How long they ran, all together."""
    return sum(_schedstat(one)[0] for one in some) / 1e9


def waited_s(some: Iterable[Path]) -> float:
    """How long they waited for a core, all together."""
    return sum(_schedstat(one)[1] for one in some) / 1e9


def _schedstat(one: Path) -> tuple[int, int]:
    try:
        ran, waited, _ = (one / "schedstat").read_text().split()
    except OSError:  # it has ended
        return 0, 0
    return int(ran), int(waited)


class Stopwatch:
    """Runs from when it is made. Threads that take turns at a piece of work are watched."""

    def __init__(self, watched: Iterable[Path]) -> None:
        self._watched = list(watched)
        self._stopped: tuple[float, float] | None = None
        self._started, self._waited = time.monotonic(), waited_s(self._watched)

    def stop(self) -> None:
        """What is asked for later is as of now."""
        self._stopped = (self.elapsed_s(), self.waited_s())

    def elapsed_s(self) -> float:
        """By the clock on the wall."""
        return self._stopped[0] if self._stopped else time.monotonic() - self._started

    def waited_s(self) -> float:
        """What the threads spent waiting for a core, all together."""
        return self._stopped[1] if self._stopped else waited_s(self._watched) - self._waited

    def own_s(self) -> float:
        """What passed while they had what they needed."""
        return self.elapsed_s() - self.waited_s()
