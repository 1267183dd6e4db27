"""Waits for what must come, with deadlines that only a hang reaches: a busy machine is slow, not wrong.

What passes waits no longer than it has to, so the deadlines may be generous. A test never waits for time in the hope
that something has happened by then, and never says how soon it has to: see clocks.py for what must be fast.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

SLOWNESS = float(os.environ.get("VIRTIOD_SLOWNESS", "1"))  # of this machine: deadlines are so many times longer
PATIENCE_S = 60.0 * SLOWNESS  # well below the time limit of a whole test, which cannot say what it waited for
LOAD_S = 600.0  # of a load that runs for as long as its test wants, and is ended by it

PERIOD_S = 0.005

T = TypeVar("T")


def wait_until(ready: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Polls until ready() is true; fails the test after the deadline."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(PERIOD_S)


async def until(
    ready: Callable[[], object],
    what: str | Callable[[], str] = "what is waited for here",
    seconds: float = PATIENCE_S,
) -> None:
    """The same on the event loop. what may be a function, for what is missing in the end."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(PERIOD_S)


async def soon(awaited: Awaitable[T]) -> T:
    """Its result; raises TimeoutError after the deadline."""
    return await asyncio.wait_for(awaited, PATIENCE_S)
