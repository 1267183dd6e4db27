"""A unit that was reset may have lost what its cache held: that is written again before its I/O goes on."""

from __future__ import annotations

import asyncio
import errno
import logging
import struct
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, check, stack
from tests.support.fake_scsi_units import FLUSHES, READS, WRITES, FakeUnit, fixed_sense
from tests.support.rig import in_loop
from tests.support.rings import RINGS, Ring
from tests.support.stopped_thread import stopped_thread
from tests.support.uses import somebody
from virtiod.bdev.keeping import KeptChannels, KeptCounters
from virtiod.bdev.probe import Flag, Probe
from virtiod.controllers.scsi import commands
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.core.errors import DeviceError
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from virtiod.transports.epoch import Epoch, Peer
from virtiod.transports.vhost_user import transport
from virtiod.virtio.scsi import EventType, ResetReason, Response

RESETS = [Asc.POWER_ON_OR_RESET, Asc.POWER_ON, Asc.DEVICE_RESET, Asc.NOT_READY_TO_READY]
OLD, NEW = b"o" * 512, b"n" * 512


async def attached(s: Stack, blocks: int = 4) -> ScsiController:
    """After that many acknowledged writes of OLD."""
    await s.attach()
    controller = s.engine.controllers.get("S0")
    assert isinstance(controller, ScsiController)
    await s.until(lambda: controller._scans.idle)
    s.probe("S0t0").buffer[:512] = OLD
    for i in range(blocks):
        assert await s.do("S0t0", "write", 512 * i) == 0
    s.probe("S0t0").buffer[:512] = NEW
    return controller


def power_off(unit: FakeUnit, code: int = Asc.POWER_ON) -> None:
    unit.data.clear()
    unit.log.clear()
    unit.attentions = [int(code)]


def written(unit: FakeUnit) -> list[int]:
    """Block numbers, without the first command, which met the attention."""
    return [struct.unpack_from(">I", cdb, 2)[0] for cdb in unit.log[1:] if cdb[0] in WRITES]


def kept(s: Stack) -> KeptCounters:
    channels = s.engine.bdevs.get("S0t0").channels
    assert isinstance(channels, KeptChannels)
    return channels.kept_counters()


@pytest.mark.parametrize("ring", RINGS, ids=str)
@pytest.mark.parametrize("code", RESETS)
@in_loop
async def test_what_a_reset_lost_is_written_again_in_order_before_what_was_held(
    run_dir: Path, code: int, ring: Ring
) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, ring=ring) as s:
        await attached(s)
        power_off(unit, code)
        assert await s.do("S0t0", "write", 512 * 2) == 0
        assert sorted(written(unit)[:4]) == [0, 1, 2, 3]
        assert written(unit)[4:] == [2]
        assert unit.data == {0: OLD, 1: OLD, 2: NEW, 3: OLD}
        assert (kept(s).repeated, kept(s).losses) == (4, 0)


@pytest.mark.parametrize("code", [Asc.REPORTED_LUNS_CHANGED, Asc.INQUIRY_DATA_CHANGED])
@in_loop
async def test_nothing_is_written_again_to_a_unit_that_kept_its_cache(run_dir: Path, code: int) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s)
        unit.log.clear()
        unit.attentions = [code]
        assert await s.do("S0t0", "write", 512 * 2) == 0
        assert written(unit) == [2]


@in_loop
async def test_a_flush_that_succeeded_after_a_reset_that_nobody_knew_of_is_done_again(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in FLUSHES else None
        flush = asyncio.ensure_future(s.do("S0t0", "flush", 0, 0))
        await s.until(lambda: s.host.held)
        power_off(unit)
        s.host.hook = lambda _: None
        controller._rescan({0})
        await s.until(s.engine.bdevs.get("S0t0").channels.identity_in_doubt)
        s.host.release()
        assert await flush == 0
        assert unit.data == dict.fromkeys(range(4), OLD)
        assert [cdb[0] in WRITES for cdb in unit.log if cdb[0] in WRITES | FLUSHES] == [False, *[True] * 4, False]


@in_loop
async def test_a_write_with_fua_whose_flush_meets_a_reset_begins_again_with_the_write(run_dir: Path) -> None:
    unit = FakeUnit(fua=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s, 0)

        def hook(command: Command) -> Answer | None:
            if command.cdb[0] in FLUSHES and unit.data and not unit.attentions:
                s.host.hook = lambda _: None
                power_off(unit)
            return None

        s.host.hook = hook
        assert await s.do("S0t0", "write", 0, flags=Flag.FUA) == 0
        assert unit.data == {0: NEW}


@in_loop
async def test_pieces_of_a_write_that_a_reset_lost_are_written_again_with_the_rest(run_dir: Path) -> None:
    unit = FakeUnit(max_transfer=1)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s, 0)
        s.probe("S0t0").buffer[:4096] = NEW * 8

        def hook(command: Command) -> Answer | None:
            if command.cdb[0] in WRITES and len(unit.data) == 5:
                s.host.hook = lambda _: None
                power_off(unit)
            return None

        s.host.hook = hook
        assert await s.do("S0t0", "write", 0, 4096) == 0
        assert unit.data == dict.fromkeys(range(8), NEW)


@in_loop
async def test_a_reset_while_it_is_written_again_has_all_of_it_written_again(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s)
        resets = [3, 2, 1]

        def hook(command: Command) -> Answer | None:
            if command.cdb[0] in WRITES and resets and len(unit.data) == resets[-1] and not unit.attentions:
                resets.pop()
                unit.data.clear()
                return Answer(
                    status=Status.CHECK_CONDITION, sense=fixed_sense(SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)
                )
            return None

        power_off(unit)
        s.host.hook = hook
        assert await s.do("S0t0", "write", 512 * 9) == 0
        assert (resets, unit.data) == ([], {**dict.fromkeys(range(4), OLD), 9: NEW})
        assert kept(s).losses == 0


@in_loop
async def test_a_flush_of_what_is_written_again_does_not_count_if_the_unit_was_reset_meanwhile(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s, 20)
        channels = s.engine.bdevs.get("S0t0").channels

        def hook(command: Command) -> Answer | None:
            if command.cdb[0] in FLUSHES and len(unit.data) == 16:
                s.host.hook = lambda _: None
                unit.data.clear()
                channels.doubt_identity(reset=True)  # as if a scan had heard of it
            return None

        power_off(unit)
        s.host.hook = hook
        assert await s.do("S0t0", "write", 512 * 30) == 0
        assert unit.data == {**dict.fromkeys(range(20), OLD), 30: NEW}


@in_loop
async def test_kept_writes_of_a_disk_that_was_swapped_are_lost_and_that_is_told(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await attached(s)
        channels = s.engine.bdevs.get("S0t0").channels
        new = units[0, 0] = FakeUnit(serial="new", attentions=[int(Asc.POWER_ON_OR_RESET)] * 8)
        assert await s.do("S0t0", "flush", 0, 0) == -errno.ENODEV
        await s.until(lambda: s.events.count(("bdev_register", "S0t0")) == 2)
        assert new.data == {}
        assert channels.losses() == 1
        assert s.events.count(("bdev_writes_lost", "S0t0")) == 1
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and "acknowledged" in r.getMessage()]
    assert len(told) == 1


@in_loop
async def test_io_in_flight_of_a_unit_that_is_leaving_is_not_for_the_disk_that_came_back_in_its_place(
    run_dir: Path,
) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        controller = await attached(s, 0)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        write = asyncio.ensure_future(s.do("S0t0", "write"))
        await s.until(lambda: s.host.held)
        bdev = s.engine.bdevs.get("S0t0")
        units[0, 0].write_protect = True  # the same disk, but not the same bdev
        leave = asyncio.Event()

        async def stay() -> None:
            await leave.wait()

        bdev.open(somebody, on_remove=stay)
        controller._rescan({0})
        await s.until(lambda: bdev.removing)
        new = units[0, 0] = FakeUnit(serial="new")
        s.host.hook = lambda _: None
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        assert await write == -errno.ENODEV
        assert new.data == {}
        leave.set()
        await s.until(lambda: s.events.count(("bdev_register", "S0t0")) == 2)


async def lose(s: Stack, controller: ScsiController) -> None:
    """In order: the process stops its rings, and is connected again."""
    controller._lost(DeviceError("the test says so"))
    await s.until(lambda: controller.reconnects == 1)


@pytest.mark.parametrize("reset", [False, True])
@in_loop
async def test_a_process_that_stopped_in_order_has_what_it_acknowledged_but_not_what_a_reset_lost(
    run_dir: Path, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(1, 1)  # of a device in this process none is seen
    monkeypatch.setattr(transport, "Epoch", lambda device, _: Epoch(device, peer))
    unit, other = FakeUnit(), FakeUnit(naa=2)
    async with stack(run_dir, {(0, 0): unit, (1, 0): other}) as s:
        controller = await attached(s)
        assert await s.do("S0t1", "write") == 0
        other.log.clear()
        if reset:
            power_off(unit)  # and no I/O has met the attention
        await lose(s, controller)
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.data == dict.fromkeys(range(4), OLD)
        assert (kept(s).repeated, kept(s).losses) == (4 if reset else 0, 0)
        assert not [cdb for cdb in other.log if cdb[0] in WRITES]


@in_loop
async def test_what_is_not_all_written_again_when_the_process_stops_in_order_is_written_again_later(
    run_dir: Path,
) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES and not unit.attentions else None
        power_off(unit)
        write = asyncio.ensure_future(s.do("S0t0", "write", 512 * 9))
        await s.until(lambda: s.host.held)
        s.host.hook = lambda _: None
        await lose(s, controller)
        assert await write == 0
        assert unit.data == {**dict.fromkeys(range(4), OLD), 9: NEW}
        assert kept(s).losses == 0


@pytest.mark.parametrize("reason", [ResetReason.HARD, ResetReason.RESCAN, ResetReason.REMOVED])
@in_loop
async def test_a_reset_that_only_an_event_tells_of_has_what_is_kept_written_again(
    run_dir: Path, reason: ResetReason
) -> None:
    unit, other = FakeUnit(), FakeUnit(naa=2)
    async with stack(run_dir, {(0, 0): unit, (0, 1): other}) as s:
        await attached(s)
        assert await s.do("S0t0l1", "write") == 0
        unit.data.clear()
        other.log.clear()
        s.host.send_event(EventType.TRANSPORT_RESET, 0, 0, reason)
        await s.until(lambda: unit.data)
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.data == dict.fromkeys(range(4), OLD)
        assert not [cdb for cdb in other.log if cdb[0] in WRITES]


@in_loop
async def test_a_reset_that_is_told_to_a_command_that_nobody_waits_for_is_not_missed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        monkeypatch.setattr(commands, "COMMAND_DEADLINE_S", 0.05)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] == Opcode.TEST_UNIT_READY else None
        s.host.tmf = lambda *_: Response.FUNCTION_REJECTED
        controller._rescan({0})
        await s.until(lambda: s.host.tmfs)
        power_off(unit)
        s.host.hook = lambda _: None
        s.host.release()  # the late answer tells of it
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.data == dict.fromkeys(range(4), OLD)


@in_loop
async def test_a_reset_that_is_told_while_the_rings_stop_is_not_missed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = FakeUnit()

    class Late(FakeHost):
        async def queue_stop(self, index: int) -> int:
            if self.held:
                unit.data.clear()
                self.release(check(SenseKey.UNIT_ATTENTION, Asc.POWER_ON))
            return await super().queue_stop(index)

    peer = Peer(1, 1)
    monkeypatch.setattr(transport, "Epoch", lambda device, _: Epoch(device, peer))
    units = {(0, 0): unit}
    async with stack(run_dir, units, host=Late(units)) as s:
        controller = await attached(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        write = asyncio.ensure_future(s.do("S0t0", "write", 512 * 9))
        await s.until(lambda: s.host.held)
        s.host.hook = lambda _: None
        await lose(s, controller)
        assert await write == 0
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.data == {**dict.fromkeys(range(4), OLD), 9: NEW}


@pytest.mark.programs
@in_loop
async def test_a_flush_counts_when_what_other_queues_were_told_before_it_was_heard(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, pollers=2) as s:
        await attached(s)
        other = Probe(s.engine.memory, s.engine.pollers[0], s.engine.bdevs.get("S0t0").channels)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in READS else None
        read = asyncio.ensure_future(other.submit("read", 0, 512))
        await s.until(lambda: s.host.held)
        s.host.hook = lambda _: None
        with stopped_thread(s.engine.pollers[0].tid):
            power_off(unit)
            unit.attentions.clear()
            s.host.release(check(SenseKey.UNIT_ATTENTION, Asc.POWER_ON))
            flush = asyncio.ensure_future(s.do("S0t0", "flush", 0, 0))
            await s.until(lambda: [cdb[0] for cdb in unit.log].count(Opcode.TEST_UNIT_READY) > 3)
            assert not flush.done()
        assert await flush == 0
        assert await read == 0
        assert unit.data == dict.fromkeys(range(4), OLD)


@in_loop
async def test_a_reset_that_is_known_when_the_controller_is_detached_loses_nothing(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await attached(s)
        power_off(unit)
        await s.engine.controllers.detach("S0")
        assert unit.data == dict.fromkeys(range(4), OLD)
        assert unit.log[-1][0] in FLUSHES


@in_loop
async def test_what_is_kept_for_a_unit_that_is_not_ready_on_its_return_waits_until_it_is(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        controller = await attached(s)
        not_ready = check(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)
        s.host.hook = lambda c: not_ready if c.cdb[0] not in {Opcode.INQUIRY, Opcode.REPORT_LUNS} else None
        power_off(unit)
        await lose(s, controller)
        s.host.hook = lambda _: None
        await s.until(lambda: not s.engine.bdevs.get("S0t0").channels.identity_in_doubt())
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.data == dict.fromkeys(range(4), OLD)
        assert kept(s).losses == 0


@in_loop
async def test_a_disk_that_is_swapped_after_it_was_compared_on_a_return_gets_nothing(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        controller = await attached(s)
        channels = s.engine.bdevs.get("S0t0").channels
        new = FakeUnit(serial="new")

        def swap(command: Command) -> Answer | None:
            if command.target == 0 and command.cdb[0] == Opcode.MODE_SENSE_10:
                units[0, 0] = new  # and its attention is told to this command
            return None

        s.host.hook = swap
        await lose(s, controller)
        await s.until(lambda: s.events.count(("bdev_register", "S0t0")) == 2)
        assert new.data == {}
        assert channels.losses() == 1
