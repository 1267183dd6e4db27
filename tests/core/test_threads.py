"""Work that may block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.waiting import until
from virtiod.core.errors import DeadlineError
from virtiod.core.threads import in_thread


def test_a_result_that_comes_too_late_is_discarded() -> None:
    goes_on, discarded = threading.Event(), list[str]()

    def work() -> str:
        goes_on.wait()
        return "late"

    async def run() -> None:
        with pytest.raises(DeadlineError, match=r"wait: not done within 0\.01 s, the kernel still works on it"):
            await in_thread(work, discarded.append, 0.01, "wait")
        goes_on.set()
        await until(lambda: discarded == ["late"])

    asyncio.run(run())


def test_what_work_raises_comes_through_even_a_timeout_of_its_own() -> None:
    def work() -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        asyncio.run(in_thread(work, lambda _: None, 60, "read"))
