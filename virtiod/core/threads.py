"""Work that may block, in threads that nobody has to wait for.

The kernel may take for ever, so the threads are not those of a pool: asyncio and Python wait for those at the end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from virtiod.core.errors import DeadlineError

READ_S = 10.0  # for a file to be read, or a name to be looked up

T = TypeVar("T")


async def in_thread(work: Callable[[], T], discard: Callable[[T], object], deadline_s: float, what: str) -> T:
    """Runs work, which may block, in a thread. Raises DeadlineError; a late result is discarded in the thread."""
    try:
        async with asyncio.timeout(deadline_s) as limit:
            return await at_leisure(work, discard, what)
    except TimeoutError:
        if not limit.expired():  # work itself has raised it
            raise
        raise DeadlineError(f"{what}: not done within {deadline_s:g} s, the kernel still works on it") from None


async def read_in_thread(work: Callable[[], T], what: str) -> T:
    """Runs work that reads something that may hang, as a file system does. Raises DeadlineError."""
    return await in_thread(work, lambda _: None, READ_S, what)


async def at_leisure(work: Callable[[], T], discard: Callable[[T], object], what: str) -> T:
    """Runs work in a thread, without a deadline. If the caller is cancelled the result is discarded in the thread."""
    promise: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
                promise.set_exception(error)
            return
        try:
            promise.set_result(result)
        except concurrent.futures.InvalidStateError:
            discard(result)

    threading.Thread(target=run, name=what, daemon=True).start()
    return await asyncio.wrap_future(promise)
