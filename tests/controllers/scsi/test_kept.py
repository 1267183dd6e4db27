"""What was acknowledged and not flushed, when a unit is lost: it is for the same disk only, and users are told."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import FakeHost, Stack, stack
from tests.support.fake_scsi_units import WRITES, FakeUnit
from tests.support.rest import check_at_rest
from tests.support.rig import in_loop
from tests.support.uses import somebody
from virtiod.bdev.keeping import KeptChannels, KeptCounters
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.scsi.spec import Opcode
from virtiod.transports.epoch import Epoch

DATA = b"y" * 512
HOUR_S = 3600.0
FLUSHES: frozenset[int] = frozenset({Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16})


async def attached(s: Stack) -> ScsiController:
    """After an acknowledged write of DATA to its first block."""
    await s.attach()
    s.probe("S0t0").buffer[:512] = DATA
    assert await s.do("S0t0", "write") == 0
    controller = s.engine.controllers.get("S0")
    assert isinstance(controller, ScsiController)
    return controller


def lose(controller: ScsiController) -> None:
    controller.transport._client._channel.close()  # type: ignore[attr-defined]


def kept(s: Stack) -> KeptCounters:
    channels = s.engine.bdevs.get("S0t0").channels
    assert isinstance(channels, KeptChannels)
    return channels.kept_counters()


@in_loop
async def test_a_flush_of_a_unit_that_came_back_without_a_cache_waits_for_what_is_written_again(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        bdev = s.engine.bdevs.get("S0t0")
        unit.data.clear()
        unit.write_cache = False
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        lose(controller)
        await s.until(lambda: s.host.held)
        assert not bdev.write_cache
        flush = asyncio.ensure_future(s.do("S0t0", "flush", 0, 0))
        await s.until(lambda: bdev.stats().ops["flush"].submitted)
        for _ in range(2):
            await s.engine.pollers[-1].ping()
        assert not flush.done()
        s.host.hook = lambda _: None
        s.host.release()
        assert await flush == 0
        assert unit.data[0] == DATA


@in_loop
async def test_kept_writes_of_a_unit_that_is_leaving_are_not_for_the_disk_in_its_place(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        controller = await attached(s)
        bdev = s.engine.bdevs.get("S0t0")
        leave = asyncio.Event()

        async def stay() -> None:
            await leave.wait()

        bdev.open(somebody, on_remove=stay)
        del units[0, 0]
        controller._rescan({0})
        await s.until(lambda: bdev.removing)
        units[0, 0] = FakeUnit(serial="new")
        lose(controller)
        await s.until(lambda: controller.reconnects == 1)
        assert units[0, 0].data == {}
        assert bdev.channels.losses() == 1
        assert ("bdev_writes_lost", "S0t0") in s.events
        leave.set()
        await s.until(lambda: s.events.count(("bdev_register", "S0t0")) == 2)
        assert units[0, 0].data == {}


@pytest.mark.waits
@pytest.mark.parametrize("same", [True, False])
@in_loop
async def test_kept_writes_of_a_unit_that_does_not_say_who_it_is_wait_until_it_does(run_dir: Path, same: bool) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        controller = await attached(s)
        channels = s.engine.bdevs.get("S0t0").channels
        unit = units[0, 0]
        if not same:
            unit = units[0, 0] = FakeUnit(serial="new")
        unit.data.clear()
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 0 else None
        lose(controller)
        await s.until(lambda: controller.reconnects == 1)
        assert await s.do("S0t1", "read") == 0
        s.host.hook = lambda _: None
        s.host.release()
        if same:
            assert await s.do("S0t0", "flush", 0, 0) == 0
        else:
            await s.until(lambda: ("bdev_writes_lost", "S0t0") in s.events)
        assert unit.data == ({0: DATA} if same else {})
        assert channels.losses() == (0 if same else 1)


@in_loop
async def test_plain_writes_to_a_unit_that_knows_no_flush_succeed_and_their_loss_is_told(run_dir: Path) -> None:
    unit = FakeUnit(unknown=set(FLUSHES))
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        results = await asyncio.gather(*(s.do("S0t0", "write", 512 * i) for i in range(600)))
        assert results == [0] * 600
        assert await s.do("S0t0", "flush", 0, 0) == -errno.EOPNOTSUPP
        assert kept(s).records == 0
        unit.unknown.clear()
        lose(controller)
        await s.until(lambda: controller.reconnects == 1)
        assert [await s.do("S0t0", "flush", 0, 0) for _ in range(2)] == [-errno.EIO, 0]
        assert kept(s).losses == 1


def old_session(s: Stack) -> Epoch:
    """The one that is not over."""
    (epoch,) = s.engine.controllers.quarantine.epochs("S0")
    return epoch


@in_loop
async def test_kept_writes_wait_until_the_old_session_is_over(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, io_timeout_s=0, peer_grace_s=HOUR_S) as s:
        controller = await attached(s)
        unit.data.clear()
        lose(controller)
        await s.until(lambda: controller.waits_for)
        assert (controller.state, unit.data, kept(s).records) == ("reconnecting", {}, 1)
        old_session(s).die("the test says so")
        await s.until(lambda: controller.state == "up")
        assert unit.data == {0: DATA}
        await check_at_rest(s.engine, flush=True)


@pytest.mark.waits
@in_loop
async def test_kept_writes_wait_for_an_old_session_as_long_as_an_io_may(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, io_timeout_s=0.2, peer_grace_s=HOUR_S) as s:
        controller = await attached(s)
        unit.data.clear()
        lose(controller)
        await s.until(lambda: controller.state == "up" and controller.reconnects == 1)
        assert (unit.data, kept(s).losses) == ({0: DATA}, 0)
        old_session(s).die("the test says so")
        await check_at_rest(s.engine, flush=True)


@pytest.mark.waits
@in_loop
async def test_what_a_device_writes_again_and_does_not_end_is_lost_and_its_buffers_are_kept_from_others(
    run_dir: Path,
) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, io_timeout_s=0.2, peer_grace_s=HOUR_S) as s:
        controller = await attached(s)
        unit.data.clear()
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        lose(controller)
        await s.until(lambda: s.host.held)
        first = old_session(s)
        s.host.held.clear()
        s.host.hook = lambda _: None
        lose(controller)
        await s.until(lambda: controller.state == "up")
        assert (unit.data, kept(s).losses) == ({}, 1)
        assert [await s.do("S0t0", "flush", 0, 0) for _ in range(2)] == [-errno.EIO, 0]
        quarantine = s.engine.controllers.quarantine
        assert (quarantine.kept()["S0"].sessions, quarantine.kept()["S0"].small) == (2, 4096)
        first.die("the test says so")
        await s.until(lambda: len(quarantine.epochs("S0")) == 1)
        assert quarantine.kept()["S0"].small == 4096
        old_session(s).die("the test says so")
        await check_at_rest(s.engine)


@in_loop
async def test_what_a_device_was_writing_again_when_it_died_is_written_by_the_next(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        unit.data.clear()
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        lose(controller)
        await s.until(lambda: s.host.held)
        s.host.held.clear()
        s.host.hook = lambda _: None
        lose(controller)
        await s.until(lambda: controller.state == "up")
        assert (unit.data, kept(s).losses) == ({0: DATA}, 0)
        await check_at_rest(s.engine, flush=True)
