"""Loads and other users of a bdev: which of them may begin, and that claims end with what they are about."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.load.engine import engine
from tests.support.rig import in_loop
from tests.support.waiting import LOAD_S, soon, until
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.bdev.use import Access, Use
from virtiod.controllers import ControllerManager
from virtiod.core.errors import Busy, LostError, NoMemory
from virtiod.core.levels import NOTICE
from virtiod.core.memory import MIB
from virtiod.load import runner
from virtiod.load.job import LoadJob
from virtiod.load.report import LoadReport
from virtiod.load.workload import PATTERNS, Workload
from virtiod.system import System

SHORT = Workload("randwrite", total_bytes=MIB)
LONG = Workload("randwrite", time_s=LOAD_S)
READS = Workload("randread", total_bytes=MIB)
WRITER = Use("nbd", "NBD export", "disk", Access.WRITE, ["pid 7 uid 0"])
READ_ONLY = Use("nbd", "NBD export", "disk", Access.NONE, read_only=True)
IDLE = Use("nbd", "NBD export", "disk", Access.NONE)


async def begun(e: System, workload: Workload, force: bool = False) -> asyncio.Task[LoadReport]:
    """A load that runs."""
    bdev = e.bdevs.get("N0")
    before = bdev.stats().ops
    task = asyncio.create_task(e.load.run(["N0"], workload, force=force))
    await until(lambda: any(bdev.stats().ops[op].completed > before[op].completed for op in ("read", "write")))
    return task


async def ended(e: System, task: asyncio.Task[LoadReport]) -> LoadReport:
    await e.load.stop()
    return await soon(task)


@pytest.mark.parametrize("rw", [name for name, pattern in PATTERNS.items() if pattern.reads != 100])
@pytest.mark.parametrize(
    ("use", "says"),
    [
        (WRITER, r"bdev N0 is in use by NBD export disk of pid 7 uid 0 \(to write\); with force"),
        (READ_ONLY, "bdev N0 is exported read-only by NBD export disk; with force"),
    ],
)
@in_loop
async def test_a_load_that_writes_needs_force_where_others_write_or_rely_on_the_data(
    rw: str, use: Use, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine("N0") as e:
        handle = e.bdevs.get("N0").open(lambda: use)
        workload = Workload(rw, total_bytes=MIB)
        with pytest.raises(Busy, match=says) as caught:
            await e.load.run(["N0"], workload)
        assert str(caught.value).startswith(f"rw {rw} destroys data")
        assert e.bdevs.get("N0").uses() == [use]
        assert e.bdevs.get("N0").stats().ops["write"].submitted == 0
        (result,) = (await e.load.run(["N0"], workload, force=True)).results
        assert result.ios == workload.total_ios(bdevs=1, jobs=1)
        (warned,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warned.message.startswith(f"load {rw} writes to bdev N0, by force: it is ")
        assert (await e.load.run(["N0"], READS)).results[0].status == "finished"
        handle.close()


@in_loop
async def test_a_load_that_writes_is_free_where_nobody_is_connected() -> None:
    async with engine("N0") as e:
        handle = e.bdevs.get("N0").open(lambda: IDLE)
        assert (await e.load.run(["N0"], SHORT)).results[0].status == "finished"
        handle.close()
        assert not e.bdevs.get("N0").claimed


@pytest.mark.parametrize("first", ["randread", "randwrite"])
@in_loop
async def test_a_load_that_writes_begins_beside_no_other_and_reads_always_do(first: str) -> None:
    async with engine("N0", pollers=2) as e:
        task = await begun(e, Workload(first, time_s=LOAD_S))
        with pytest.raises(Busy, match=f"in use by load {first}"):
            await e.load.run(["N0"], SHORT)
        assert (await e.load.run(["N0"], READS)).results[0].status == "finished"
        assert len(e.bdevs.get("N0").uses()) == 1  # one for a load, whatever the number of pollers
        assert (await e.load.run(["N0"], SHORT, force=True)).results[0].status == "finished"
        await ended(e, task)
        assert (await e.load.run(["N0"], SHORT)).results[0].status == "finished"
        assert e.bdevs.get("N0").uses() == []


@in_loop
async def test_of_two_that_begin_at_once_one_is_refused() -> None:
    async with engine("N0", "N1") as e:
        found = await asyncio.gather(
            e.load.run(["N1", "N0"], SHORT),
            e.load.run(["N0"], SHORT),
            e.load.run(["N1"], SHORT),
            return_exceptions=True,
        )
        assert [type(one) for one in found] == [LoadReport, Busy, Busy]
        assert [bdev.uses() for bdev in e.bdevs.list()] == [[], []]


@in_loop
async def test_another_path_to_the_same_unit_is_the_same_disk() -> None:
    async with engine() as e:
        for name in ("P0", "P1"):
            channels = BdevChannels(e.pollers)
            connect_null(channels)
            e.bdevs.register(Bdev(name, BdevInfo(512, 1 << 16), channels, unit="naa.5"))
        handle = e.bdevs.get("P1").open(lambda: WRITER)
        with pytest.raises(Busy, match="bdev P0 is in use by NBD export disk"):
            await e.load.run(["P0"], SHORT)
        handle.close()
        assert len((await e.load.run(["P0", "P1"], SHORT)).results) == 2


@in_loop
async def test_only_a_load_that_was_not_forced_keeps_others_away() -> None:
    async with engine("N0") as e:
        bdev = e.bdevs.get("N0")
        for workload, force, keeps in (
            (LONG, False, True),
            (LONG, True, False),
            (Workload(time_s=LOAD_S), False, False),
        ):
            task = await begun(e, workload, force)
            (use,) = bdev.uses()
            assert (use.kind, use.name, use.exclusive) == ("load", workload.rw, keeps)
            assert use.access is (Access.WRITE if workload.writes else Access.READ)
            await ended(e, task)


@in_loop
async def test_a_claim_ends_with_its_load_however_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine("N0", "N1", pollers=2) as e:
        used = e.memory.used
        task = await begun(e, LONG)  # its client hangs up
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert e.bdevs.get("N0").uses() == []

        with monkeypatch.context() as patch:  # memory for more of its jobs is missing
            calls = iter([True, True, False])

            def short_of_memory(*args: object) -> object:
                if next(calls):
                    return LoadJob(*args)  # type: ignore[arg-type]
                raise NoMemory("none left")

            patch.setattr(runner, "LoadJob", short_of_memory)
            with pytest.raises(NoMemory):
                await e.load.run(["N0", "N1"], LONG)
        assert [bdev.uses() for bdev in e.bdevs.list()] == [[], []]

        async def lost(self: ControllerManager) -> None:
            raise LostError("gone")

        with monkeypatch.context() as patch:  # a device does not take the memory
            patch.setattr(ControllerManager, "publish_memory", lost)
            with pytest.raises(LostError):
                await e.load.run(["N0"], LONG)
        assert e.bdevs.get("N0").uses() == []

        task = await begun(e, LONG)  # its bdev goes
        await soon(e.bdevs.unregister(e.bdevs.get("N0")))
        assert {result.status for result in (await soon(task)).results} == {"terminated"}
        assert e.memory.used == used


@in_loop
async def test_a_bdev_can_go_while_a_load_on_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bdev waits for the load, and no longer than that."""
    async with engine("N0") as e:
        at_it, go_on = asyncio.Event(), asyncio.Event()

        async def slow(self: ControllerManager) -> None:
            at_it.set()
            await go_on.wait()
            raise LostError("gone")

        monkeypatch.setattr(ControllerManager, "publish_memory", slow)
        task = asyncio.create_task(e.load.run(["N0"], LONG))
        await at_it.wait()
        going = asyncio.create_task(e.bdevs.unregister(e.bdevs.get("N0")))
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(LostError):
            await soon(task)
        await soon(going)
        assert e.bdevs.list() == []


@in_loop
async def test_the_log_says_whose_use_ends_with_a_bdev(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with engine("N0", "N1") as e:
        handle = e.bdevs.get("N0").open(lambda: WRITER)
        await e.bdevs.unregister(e.bdevs.get("N0"))
        handle.close()
        await e.bdevs.unregister(e.bdevs.get("N1"))
        (told,) = [record for record in caplog.records if "being removed" in record.message]
        assert told.levelno == NOTICE
        assert told.message == "bdev N0 is being removed, which ends NBD export disk of pid 7 uid 0 (to write)"
