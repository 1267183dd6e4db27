"""Tasks that are held until they end; an unexpected exception is logged.

asyncio itself keeps weak references only, and reports an exception that nobody retrieved when the task is collected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 60.0  # before what failed begins again: longer each time

Result = TypeVar("Result")

_running: set[asyncio.Task[object]] = set()


def spawn(work: Coroutine[object, object, Result], name: str, *, awaited: bool = False) -> asyncio.Task[Result]:
    """Starts a task on the running event loop and holds it until it ends.

    name: what it does, for the log and for whoever lists tasks. awaited: its owner takes the result, and with it the
    exception; of any other task an exception is logged as an error, with its traceback.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_ended if awaited else _ended_alone)
    return task


async def keep_going(work: Callable[[], Coroutine[object, object, None]], what: str) -> None:
    """Does work that is to last: what ends it unexpectedly is logged with its traceback, and it begins again soon.

    what: for the log. Returns when the work does.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        began = time.monotonic()
        try:
            return await work()
        except Exception:
            if time.monotonic() - began > LAST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            log.exception("%s failed; it begins again in %g s", what, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


async def cancel(*tasks: asyncio.Task[object] | None) -> None:
    """Cancels those that run and returns when all have ended, in whatever way. None stands for a task never started."""
    running = {task for task in tasks if task is not None and not task.done()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)


async def finish(work: Coroutine[object, object, Result], name: str) -> Result:
    """Does work that has deadlines of its own to its end: a caller that is cancelled ends when it has come."""
    task = spawn(work, name, awaited=True)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: the caller has ended
        raise


def _ended(task: asyncio.Task[object]) -> None:
    _running.discard(task)


def _ended_alone(task: asyncio.Task[object]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed: %s: %s", task.get_name(), type(error).__name__, error, exc_info=error)
