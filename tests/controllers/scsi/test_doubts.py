"""A unit that may have become another disk gets no I/O before it has said that it is the same."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, stack
from tests.support.fake_scsi_units import WRITES, FakeUnit
from tests.support.rig import in_loop
from tests.support.uses import somebody
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.scsi.spec import Asc, CdbFlag, Opcode, VpdPage
from virtiod.virtio.scsi import EventType, ResetReason

DOUBTFUL = [
    Asc.NOT_READY_TO_READY,
    Asc.POWER_ON_OR_RESET,
    Asc.NEXUS_LOSS,
    Asc.INQUIRY_DATA_CHANGED,
    Asc.REPORTED_LUNS_CHANGED,
]
TEST_UNIT_READY = 0


def disks() -> dict[tuple[int, int], FakeUnit]:
    return {
        (0, 0): FakeUnit(serial="OLD", naa=0x5000000000000001),
        (1, 0): FakeUnit(serial="X", naa=0x5000000000000009),
    }


def swapped(*attentions: int) -> FakeUnit:
    return FakeUnit(serial="NEW", naa=0x5000000000000002, attentions=list(attentions))


def controller_of(s: Stack) -> ScsiController:
    controller = s.engine.controllers.get("S0")
    assert isinstance(controller, ScsiController)
    return controller


async def scanned(s: Stack) -> None:
    """Until no scan is going on."""
    await s.until(lambda: controller_of(s)._scans.idle)


async def serial_of(s: Stack, name: str, serial: str) -> None:
    """Until the bdev is that disk."""
    await s.until(lambda: [b.info.serial for b in s.engine.bdevs.list() if b.name == name] == [serial])


@pytest.mark.parametrize("pollers", [1, 2])
@pytest.mark.parametrize("code", DOUBTFUL)
@in_loop
async def test_a_disk_that_was_swapped_gets_no_write_of_the_old_one(
    run_dir: Path, code: int, pollers: int, caplog: pytest.LogCaptureFixture
) -> None:
    units = disks()
    async with stack(run_dir, units, pollers=pollers) as s:
        await s.attach()
        s.probe("S0t0").buffer[:512] = b"x" * 512
        new = units[0, 0] = swapped(*[code] * 16)
        writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(8)]
        writes += [asyncio.ensure_future(s.do("S0t0", op, 0, 4096)) for op in ("unmap", "write_zeroes")]
        assert await s.do("S0t1", "read") == 0  # another unit's goes on
        assert await asyncio.gather(*writes) == [-19] * 10
        await serial_of(s, "S0t0", "NEW")
        assert (new.data, new.unmaps) == ({}, [])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    said = [warning for warning in warnings if "another disk" in warning]
    assert said == [
        "controller S0: target 0 LUN 0 is another disk now, which gets no I/O of the old one: "
        "its serial is 'NEW', it was 'OLD'"
    ]


@pytest.mark.parametrize("code", DOUBTFUL)
@in_loop
async def test_io_of_a_disk_that_is_the_same_goes_on_after_it_has_said_so(run_dir: Path, code: int) -> None:
    units = disks()
    async with stack(run_dir, units) as s:
        await s.attach()
        await scanned(s)
        s.probe("S0t0").buffer[:512] = b"x" * 512
        unit = units[0, 0]
        unit.log.clear()
        unit.attentions = [code] * 4
        assert await asyncio.gather(*(s.do("S0t0", "write", 512 * i) for i in range(4))) == [0] * 4
        assert {n: unit.data[n] for n in range(4)} == dict.fromkeys(range(4), b"x" * 512)
        assert s.engine.bdevs.get("S0t0").info.serial == "OLD"
        assert [cdb[0] in WRITES for cdb in unit.log[:5]] == [True] * 4 + [False]
        again = next(n for n, cdb in enumerate(unit.log[4:], 4) if cdb[0] in WRITES)
        asked = {cdb[2] for cdb in unit.log[4:again] if is_page(cdb)}
        assert {VpdPage.UNIT_SERIAL_NUMBER, VpdPage.DEVICE_IDENTIFICATION} <= asked


def is_page(cdb: bytes) -> bool:
    return cdb[0] == Opcode.INQUIRY and bool(cdb[1] & CdbFlag.EVPD)


@in_loop
async def test_an_attention_that_only_the_control_plane_hears_of_holds_io_as_well(run_dir: Path) -> None:
    units = disks()
    async with stack(run_dir, units) as s:
        await s.attach()
        gate = asyncio.Event()
        new = swapped(Asc.POWER_ON_OR_RESET)

        def hook(command: Command) -> Answer | None:
            # The scan's TEST UNIT READY gets the attention, and its serial is told late.
            late = command.target == 0 and is_page(command.cdb) and not gate.is_set()
            return FakeHost.SILENCE if late else None

        await scanned(s)
        s.host.hook = hook
        units[0, 0] = new
        controller_of(s)._rescan({0})
        await s.until(lambda: not new.attentions and s.host.held)
        write = asyncio.ensure_future(s.do("S0t0", "write"))
        await s.until(lambda: [cdb[0] for cdb in new.log].count(TEST_UNIT_READY) > 3)
        gate.set()
        s.host.release()
        assert await write == -19
        assert new.data == {}
        await serial_of(s, "S0t0", "NEW")


@pytest.mark.waits
@in_loop
async def test_a_unit_that_does_not_say_who_it_is_gets_nothing_until_it_does(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    units = disks()
    async with stack(run_dir, units, io_timeout_s=2.0) as s:
        await s.attach()
        unit = units[0, 0]
        await scanned(s)
        broken = Answer(data=bytes(2))
        s.host.hook = lambda c: broken if c.target == 0 and c.cdb[0] == Opcode.INQUIRY else None
        unit.attentions = [Asc.POWER_ON_OR_RESET]
        unit.log.clear()
        assert await s.do("S0t0", "write") == -110
        assert await s.do("S0t1", "write") == 0
        assert unit.data == {}
        assert s.engine.controllers.get("S0").state == "up"
        held = [
            r.getMessage() for r in caplog.records if "I/O is held" in r.getMessage() and r.levelno >= logging.WARNING
        ]
        assert len(held) == 1
        s.host.hook = lambda _: None
        assert await s.do("S0t0", "write") == 0


@in_loop
async def test_a_unit_that_came_back_silent_gets_nothing_before_it_has_said_who_it_is(run_dir: Path) -> None:
    units = disks()
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = controller_of(s)
        await scanned(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 0 else None
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        await s.until(lambda: controller.reconnects == 1)
        units[0, 0] = new = swapped()
        write = asyncio.ensure_future(s.do("S0t0", "write"))
        await s.until(lambda: any(c.cdb[0] == TEST_UNIT_READY for _, _, c in s.host.held))
        s.host.hook = lambda _: None
        s.host.release()
        assert await write == -19
        assert new.data == {}


@in_loop
async def test_a_unit_that_is_gone_and_replaced_while_its_users_leave_gets_none_of_their_io(run_dir: Path) -> None:
    units = disks()
    async with stack(run_dir, units) as s:
        await s.attach()
        gone = asyncio.Event()

        async def leave() -> None:
            await gone.wait()

        bdev = s.engine.bdevs.get("S0t0")
        handle = bdev.open(somebody, on_remove=leave)
        del units[0, 0]
        controller_of(s)._rescan({0})
        await s.until(lambda: bdev.removing)
        units[0, 0] = new = swapped()
        assert await s.do("S0t0", "write") == -19
        assert new.data == {}
        handle.close()
        gone.set()
        controller_of(s)._rescan({0})
        await serial_of(s, "S0t0", "NEW")


@pytest.mark.parametrize("neighbour", [False, True], ids=["bad_target", "no_such_unit"])
@in_loop
async def test_a_disk_in_the_place_of_one_that_was_gone_gets_none_of_its_io_though_it_says_nothing(
    run_dir: Path, neighbour: bool
) -> None:
    units = disks()
    if neighbour:
        units[0, 1] = FakeUnit(serial="Y", naa=0x5000000000000008)
    async with stack(run_dir, units) as s:
        await s.attach()
        await scanned(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in {Opcode.INQUIRY, Opcode.REPORT_LUNS} else None
        old = units.pop((0, 0))
        assert await s.do("S0t0", "write") == -19
        new = units[0, 0] = swapped()
        writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(4)]
        await s.until(lambda: [cdb[0] for cdb in new.log].count(TEST_UNIT_READY) > 3)
        s.host.hook = lambda _: None
        s.host.release()
        assert await asyncio.gather(*writes) == [-19] * 4
        await serial_of(s, "S0t0", "NEW")
        assert (old.data, new.data) == ({}, {})


@pytest.mark.parametrize("lun", [0, 1])
@pytest.mark.parametrize("reason", [ResetReason.RESCAN, ResetReason.REMOVED])
@in_loop
async def test_io_of_a_target_of_which_an_event_tells_waits_until_its_units_have_said_who_they_are(
    run_dir: Path, reason: ResetReason, lun: int
) -> None:
    """SPDK names LUN 0, whatever changed, and its new disks report no attention."""
    units = {**disks(), (0, 1): FakeUnit(serial="Y", naa=0x5000000000000008)}
    async with stack(run_dir, units) as s:
        await s.attach()
        await scanned(s)
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 0 and c.cdb[0] == Opcode.INQUIRY else None
        new = units[0, 0] = swapped()
        s.host.send_event(EventType.TRANSPORT_RESET, 0, lun, reason)
        await s.until(s.engine.bdevs.get("S0t0").channels.identity_in_doubt)
        write = asyncio.ensure_future(s.do("S0t0", "write"))
        assert await s.do("S0t1", "write") == 0
        await s.until(lambda: [cdb[0] for cdb in new.log].count(TEST_UNIT_READY) > 3)
        s.host.hook = lambda _: None
        s.host.release()
        assert await write == -19
        assert new.data == {}
