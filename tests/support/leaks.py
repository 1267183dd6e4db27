"""What a test may leave behind: nothing.

Compares threads, file descriptors and child processes with those before the test. The kernel is asked, not
Python, so that those of compiled code count too.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

GRACE_S = 20.0  # to end by itself, on a busy machine

PR_SET_CHILD_SUBREAPER = 36

_run = asyncio.run


def adopt_orphans() -> None:
    """From now on what children leave running becomes a child of this process, which can see and reap it."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _threads() -> dict[str, str]:
    """Name by thread id."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            found[task.name] = (task / "comm").read_text().strip()
        except OSError:  # it ended meanwhile
            continue
    return found


def _descriptors() -> dict[str, str]:
    """What each file descriptor is open on."""
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found[fd.name] = str(fd.readlink())
        except OSError:  # the descriptor of this very listing
            continue
    return found


def children() -> dict[str, str]:
    """Command by process id, and whether it is a zombie: somebody forgot to wait for it."""
    found: dict[str, str] = {}
    try:  # the usual case, in one call
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return found
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
        except OSError:
            continue
        name, _, rest = stat.rpartition(")")
        state, parent, *_ = rest.split()
        if int(parent) == os.getpid():
            found[process.name] = name.partition("(")[2] + (" (zombie)" if state == "Z" else "")
    return found


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "thread": _threads,
    "file descriptor": _descriptors,
    "child process": children,
}


class Snapshot:
    """What there is before a test."""

    def __init__(self) -> None:
        self._before = {kind: look() for kind, look in KINDS.items()}

    def _new(self) -> list[str]:
        return [
            f"{kind} {key}: {value}"
            for kind, look in KINDS.items()
            for key, value in look().items()
            if self._before[kind].get(key) != value
        ]

    def leaked(self) -> list[str]:
        """What was not there before and stays, a line each."""
        deadline = time.monotonic() + GRACE_S
        while (new := self._new()) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        return new


class TaskWatch(logging.Handler):
    """Stands in for asyncio.run(): notes tasks that outlive the main one, which it cancels without a word.

    Notes also what asyncio logs as an error: exceptions that nobody fetched, tasks destroyed while pending.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(f"asyncio: {self.format(record)}")

    def run(self, main: Coroutine[Any, Any, Any], **options: Any) -> Any:
        return _run(self._watched(main), **options)

    async def _watched(self, main: Coroutine[Any, Any, Any]) -> Any:
        result = await main
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, pending = await asyncio.wait(others, timeout=GRACE_S)
            self.complaints += [f"task {task.get_name()}: {task.get_coro()}" for task in pending]
        return result
