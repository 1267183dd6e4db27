"""Tasks are held, named and heard of."""

from __future__ import annotations

import asyncio
import gc
import logging
from itertools import pairwise
from pathlib import Path

import pytest

from virtiod.core import tasks
from virtiod.core.tasks import cancel, keep_going, spawn

SOURCES = Path(tasks.__file__).parents[1]


async def fail() -> None:
    raise ValueError("broken")


def test_a_task_that_nobody_holds_comes_to_its_end() -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(0)
            gc.collect()
            await asyncio.sleep(0)
            ended.set()

        spawn(work(), "work")
        gc.collect()
        async with asyncio.timeout(10):
            await ended.wait()

    asyncio.run(run())


@pytest.mark.parametrize("awaited", [False, True])
def test_a_failure_is_logged_unless_its_owner_takes_it(awaited: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        task = spawn(fail(), "reconnect V0", awaited=awaited)
        with pytest.raises(ValueError, match="broken"):
            await task
        await asyncio.sleep(0)

    asyncio.run(run())
    said = [(one.levelno, one.getMessage()) for one in caplog.records]
    assert said == ([] if awaited else [(logging.ERROR, "reconnect V0 failed: ValueError: broken")])


def test_cancelling_waits_for_the_end_and_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        cleaned: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0)
                cleaned.append("up")

        running, ended = spawn(work(), "work"), spawn(asyncio.sleep(0), "sleep")
        await asyncio.sleep(0)
        await ended
        await cancel(running, None, ended)
        assert (running.cancelled(), cleaned) == (True, ["up"])
        await cancel()

    asyncio.run(run())
    assert caplog.records == []


def test_work_that_is_to_last_begins_again_after_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(tasks, "LAST_PAUSE_S", 0.02)
    times: list[float] = []

    async def work() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 4:
            raise ValueError("broken")

    asyncio.run(keep_going(work, "looking"))
    pauses = [after - before for before, after in pairwise(times)]
    assert [pause >= least for pause, least in zip(pauses, (0.009, 0.019, 0.019), strict=True)] == [True] * 3
    said = [(one.levelno, one.getMessage(), bool(one.exc_info)) for one in caplog.records]
    assert said == [
        (logging.ERROR, f"looking failed; it begins again in {pause:g} s", True) for pause in (0.01, 0.02, 0.02)
    ]


def test_every_task_is_spawned() -> None:
    found = [
        f"{path.relative_to(SOURCES)}"
        for path in SOURCES.rglob("*.py")
        if path.name != "tasks.py" and any(name in path.read_text() for name in ("create_task(", "ensure_future("))
    ]
    assert found == []
