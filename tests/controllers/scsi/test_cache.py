"""A unit's cache is switched on and off: flushes and FUA writes follow the mode as it is, or as it may be."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, stack
from tests.support.fake_scsi_units import FLUSHES, WRITES, FakeUnit, fixed_sense
from tests.support.rig import in_loop
from tests.support.rings import Ring, each_ring
from virtiod.bdev.probe import Flag
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.scsi import cdb
from virtiod.scsi.spec import Asc, CdbFlag, Opcode, SenseKey, Status
from virtiod.target.scsi.device import CAPACITY_CHANGED
from virtiod.virtio.scsi import EventType

MODE_SENSES: frozenset[int] = frozenset({Opcode.MODE_SENSE_10, Opcode.MODE_SENSE_6})


def writes_and_flushes(unit: FakeUnit) -> list[str]:
    """What reached the unit since its log was cleared."""
    kinds = dict.fromkeys(WRITES, "write") | dict.fromkeys(FLUSHES, "flush")
    return [kinds[command[0]] for command in unit.log if command[0] in kinds]


async def flushed(s: Stack, unit: FakeUnit) -> bool:
    """Whether a flush, which succeeds, reaches the unit."""
    unit.log.clear()
    assert await s.do("S0t0", "flush", 0, 0) == 0
    return "flush" in writes_and_flushes(unit)


@pytest.mark.parametrize("attention", [Asc.MODE_PARAMETERS_CHANGED, Asc.PARAMETERS_CHANGED])
@in_loop
async def test_a_cache_that_was_switched_on_is_flushed(run_dir: Path, attention: Asc) -> None:
    unit = FakeUnit(write_cache=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        bdev = s.engine.bdevs.get("S0t0")
        assert not bdev.write_cache
        assert not await flushed(s, unit)
        unit.write_cache = True
        unit.attentions = [attention]
        assert await s.do("S0t0", "read") == 0
        assert await flushed(s, unit)
        await s.until(lambda: bdev.write_cache)
        assert await flushed(s, unit)
        unit.write_cache = False
        unit.attentions = [attention]
        assert await s.do("S0t0", "read") == 0
        await s.until(lambda: not bdev.write_cache)
        assert not await flushed(s, unit)


@pytest.mark.parametrize("attention", [Asc.MODE_PARAMETERS_CHANGED, Asc.POWER_ON_OR_RESET, Asc.NOT_READY_TO_READY])
@in_loop
async def test_a_cache_that_may_be_on_is_flushed_before_it_is_known(run_dir: Path, attention: Asc) -> None:
    unit = FakeUnit(write_cache=False, fua=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in MODE_SENSES else None
        unit.write_cache = True
        unit.attentions = [attention]
        assert await s.do("S0t0", "read") == 0
        assert await flushed(s, unit)
        unit.log.clear()
        assert await s.do("S0t0", "write", flags=Flag.FUA) == 0
        assert writes_and_flushes(unit) == ["write", "flush"]
        assert not s.engine.bdevs.get("S0t0").write_cache


@in_loop
async def test_a_mode_that_was_read_before_the_change_does_not_outweigh_it(run_dir: Path) -> None:
    unit = FakeUnit(write_cache=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        before = Answer(data=unit.mode(long=True))
        asked = iter((Opcode.MODE_SENSE_10,))
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in MODE_SENSES and next(asked, None) else None
        s.host.send_event(EventType.PARAM_CHANGE, 0, 0, CAPACITY_CHANGED)
        await s.until(lambda: s.host.held)
        unit.write_cache = True
        unit.attentions = [Asc.MODE_PARAMETERS_CHANGED]
        assert await s.do("S0t0", "read") == 0
        s.host.release(before)
        bdev = s.engine.bdevs.get("S0t0")
        while not bdev.write_cache:
            assert await flushed(s, unit)
        assert await flushed(s, unit)


@in_loop
async def test_a_change_that_only_a_command_of_the_control_plane_heard_of_counts(run_dir: Path) -> None:
    unit = FakeUnit(write_cache=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        unit.write_cache = True
        unit.attentions = [Asc.MODE_PARAMETERS_CHANGED]
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        assert controller._commands is not None
        await controller._commands.run(0, 0, cdb.test_unit_ready())
        assert not unit.attentions
        assert await flushed(s, unit)
        await s.until(lambda: s.engine.bdevs.get("S0t0").write_cache)


@each_ring
@in_loop
async def test_a_fua_write_that_waited_for_the_return_is_flushed_by_the_mode_of_the_device_that_came(
    run_dir: Path, ring: Ring
) -> None:
    unit = FakeUnit(write_cache=False, fua=False)
    async with stack(run_dir, {(0, 0): unit, (1, 0): FakeUnit(naa=2)}, ring=ring) as s:
        await s.attach()
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        write = asyncio.ensure_future(s.do("S0t0", "write", flags=Flag.FUA))
        await s.until(lambda: s.host.held)
        s.host.hook = lambda _: None
        unit.write_cache = True  # it restarts with another cache, and forgets to say so
        unit.log.clear()
        s.engine.controllers.get("S0").transport._client._channel.close()  # type: ignore[attr-defined]
        assert await write == 0
        assert writes_and_flushes(unit) == ["write", "flush"]
        assert await flushed(s, unit)
        assert s.engine.bdevs.get("S0t0").write_cache


@in_loop
async def test_a_unit_that_came_back_without_the_fua_bit_gets_a_flush(run_dir: Path) -> None:
    unit = FakeUnit(write_cache=True, fua=True)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        assert await s.do("S0t0", "write", flags=Flag.FUA) == 0
        unit.fua = False
        unit.attentions = [Asc.MODE_PARAMETERS_CHANGED]
        assert await s.do("S0t0", "read") == 0

        async def without_the_bit() -> bool:
            unit.log.clear()
            assert await s.do("S0t0", "write", flags=Flag.FUA) == 0
            return not any(command[1] for command in unit.log if command[0] in WRITES)

        while not await without_the_bit():
            pass
        assert writes_and_flushes(unit) == ["write", "flush"]


@pytest.mark.parametrize("lost", [False, True])
@in_loop
async def test_a_failed_mode_sense_changes_neither_how_fua_is_done_nor_what_is_protected(
    run_dir: Path, lost: bool
) -> None:
    unit, protected = FakeUnit(), FakeUnit(naa=2, write_protect=True)
    async with stack(run_dir, {(0, 0): unit, (0, 1): protected}) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        failed: list[int] = []

        def fail(command: Command) -> Answer | None:
            if command.cdb[0] not in MODE_SENSES:
                return None
            failed.append(command.lun)
            sense = fixed_sense(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE)
            return Answer(status=Status.CHECK_CONDITION, sense=sense)

        s.host.hook = fail
        if lost:
            controller.transport._client._channel.close()  # type: ignore[attr-defined]
        else:
            s.host.send_event(EventType.PARAM_CHANGE, 0, 0, CAPACITY_CHANGED)
        await s.until(lambda: set(failed) == {0, 1} and controller.state == "up")
        await s.until(lambda: controller._scans.idle)
        s.host.hook = lambda _: None
        unit.log.clear()
        assert await s.do("S0t0", "write", flags=Flag.FUA) == 0
        assert writes_and_flushes(unit) == ["write"]
        assert any(command[1] & CdbFlag.FUA for command in unit.log)
        assert s.engine.bdevs.get("S0t0l1").info.read_only
        assert ("bdev_unregister", "S0t0l1") not in s.events


@pytest.mark.parametrize(
    "attention",
    [
        Asc.MODE_PARAMETERS_CHANGED,
        Asc.PARAMETERS_CHANGED,
        Asc.CAPACITY_CHANGED,
        Asc.CLEARED_BY_ANOTHER_INITIATOR,
    ],
)
@in_loop
async def test_a_doubtful_flush_of_a_unit_without_a_cache_that_does_not_know_it_waits_for_the_mode(
    run_dir: Path, attention: Asc
) -> None:
    unit = FakeUnit(write_cache=False, unknown=set(FLUSHES))
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        unit.attentions = [attention]
        assert await s.do("S0t0", "write") == 0
        assert await flushed(s, unit)
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        await s.until(lambda: controller._scans.idle)
        assert not await flushed(s, unit)
        unit.write_cache = True
        unit.attentions = [Asc.MODE_PARAMETERS_CHANGED]
        assert await s.do("S0t0", "flush", 0, 0) == 0  # the unit attention is for commands that are sent
        assert await s.do("S0t0", "read") == 0
        assert await s.do("S0t0", "flush", 0, 0) == -errno.EOPNOTSUPP
