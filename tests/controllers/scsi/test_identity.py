"""A device that comes back must be the one that left: what was in flight is not for another disk."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, check, stack
from tests.support.fake_scsi_units import BAD_FIELD, WRITES, FakeUnit
from tests.support.rig import in_loop
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.scsi.spec import Asc, CdbFlag, Opcode, SenseKey, Status
from virtiod.target.scsi.device import CAPACITY_CHANGED
from virtiod.virtio.scsi import EventType

Hook = Callable[[Command], Answer | None]


async def cut_with_writes_in_flight(s: Stack, then: Hook = lambda _: None) -> list[asyncio.Task[int]]:
    """then: the hook of the device that comes back."""
    s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
    s.probe("S0t0").buffer[:512] = b"y" * 512
    writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(3)]
    await s.until(lambda: len(s.host.held) == 3)
    s.host.hook = then
    cut(s)
    return writes


def cut(s: Stack) -> None:
    s.engine.controllers.get("S0").transport._client._channel.close()  # type: ignore[attr-defined]


NOT_READY = check(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)


def unusable(answer: Answer, named: bool = True) -> Hook:
    """Target 0 answers so to all that needs a usable unit. named: it still tells its serial and designators."""

    def hook(command: Command) -> Answer | None:
        if command.target != 0 or command.cdb[0] == Opcode.REPORT_LUNS:
            return None
        if command.cdb[0] != Opcode.INQUIRY:
            return answer
        return check(*BAD_FIELD) if command.cdb[1] & CdbFlag.EVPD and not named else None

    return hook


@in_loop
async def test_another_disk_at_the_same_place_gets_none_of_the_old_ones_writes(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        own, other = units[0, 0], FakeUnit(serial="new")
        units[0, 0] = other
        writes = await cut_with_writes_in_flight(s)
        await s.until(lambda: "came back as another disk" in controller.last_error)
        assert "target 0 LUN 0" in controller.last_error
        assert "its serial is 'new', it was 'old'" in controller.last_error
        assert (controller.state, other.data) == ("reconnecting", {})
        assert not any(w.done() for w in writes)
        units[0, 0] = own
        assert await asyncio.gather(*writes) == [0] * 3
        assert [own.data[i] for i in range(3)] == [b"y" * 512] * 3
        await s.until(lambda: controller.state == "up")  # its I/O may be answered before


@in_loop
async def test_a_unit_that_is_gone_on_return_is_removed_and_the_rest_goes_on(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach()
        del units[0, 0]
        writes = await cut_with_writes_in_flight(s)
        assert await asyncio.gather(*writes) == [-19] * 3
        await s.until(lambda: ("bdev_unregister", "S0t0") in s.events)
        assert await s.do("S0t1", "read") == 0


@pytest.mark.waits
@in_loop
async def test_a_unit_that_does_not_say_who_it_is_holds_up_its_own_writes_only_until_they_time_out(
    run_dir: Path,
) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units, io_timeout_s=3.0) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(3)]
        await s.until(lambda: len(s.host.held) == 3)
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 0 else None
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        await s.until(lambda: controller.reconnects == 1)
        assert await s.do("S0t1", "read") == 0
        assert not any(write.done() for write in writes)
        assert await asyncio.gather(*writes) == [-110] * 3
        assert units[0, 0].data == {}


@pytest.mark.parametrize(
    "answer",
    [
        NOT_READY,
        check(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE),
        Answer(status=Status.RESERVATION_CONFLICT),
    ],
)
@in_loop
async def test_a_unit_that_can_not_be_used_on_return_fails_its_own_writes_and_holds_up_no_other(
    run_dir: Path, answer: Answer
) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        writes = await cut_with_writes_in_flight(s, unusable(answer))
        assert await asyncio.gather(*writes) == [-errno.EIO] * 3
        await s.until(lambda: controller.state == "up")
        assert await s.do("S0t1", "read") == 0
        assert units[0, 0].data == {}


@pytest.mark.waits
@in_loop
async def test_a_disk_that_is_not_ready_when_it_is_scanned_stays_and_is_looked_at_again(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        s.host.hook = unusable(NOT_READY)
        s.host.send_event(EventType.PARAM_CHANGE, 0, 0, CAPACITY_CHANGED)
        await s.until(lambda: controller._discovery.untold(0) and controller._scans.idle)
        assert await s.do("S0t0", "read") == -errno.EIO
        units[0, 0].size = 2 << 20
        s.host.hook = lambda _: None
        await s.until(lambda: s.engine.bdevs.get("S0t0").size == 2 << 20)
        assert await s.do("S0t0", "read") == 0
        assert ("bdev_unregister", "S0t0") not in s.events


@in_loop
async def test_another_disk_that_is_not_ready_is_another_disk(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        own, units[0, 0] = units[0, 0], FakeUnit(serial="new")
        writes = await cut_with_writes_in_flight(s, unusable(NOT_READY))
        await s.until(lambda: "its serial is 'new', it was 'old'" in controller.last_error)
        s.host.hook = lambda _: None
        units[0, 0] = own
        assert await asyncio.gather(*writes) == [0] * 3


@in_loop
async def test_a_unit_that_tells_neither_name_nor_size_holds_up_its_own_writes_only(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        s.host.hook = unnamed = lambda c: unusable(NOT_READY, named=False)(c) if c.cdb[0] == Opcode.INQUIRY else None
        await s.attach()
        controller = s.engine.controllers.get("S0")
        writes = await cut_with_writes_in_flight(s, unusable(NOT_READY, named=False))
        await s.until(lambda: controller.reconnects == 1)
        assert await s.do("S0t1", "read") == 0
        (held,) = {r.getMessage() for r in caplog.records if "I/O is held" in r.getMessage()}
        assert held.startswith("controller S0: target 0 LUN 0: ")
        assert "medium not present" in held
        assert await asyncio.gather(*writes) == [-errno.EIO] * 3  # as its answer says
        s.host.hook = unnamed
        await s.until(lambda: not s.engine.bdevs.get("S0t0").channels.identity_in_doubt())
        assert await s.do("S0t0", "flush", 0, 0) == 0  # or its writes, which are kept, would wait for it
        s.host.hook = unusable(NOT_READY, named=False)
        cut(s)
        await s.until(lambda: controller.reconnects == 2)
        assert await s.do("S0t1", "read") == 0


@in_loop
async def test_a_unit_without_io_whose_geometry_can_not_be_on_return_holds_up_no_other(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        nonsense = Answer(data=struct.pack(">QI20x", 999, 0))
        s.host.hook = lambda c: nonsense if (c.target, c.cdb[0]) == (0, Opcode.SERVICE_ACTION_IN_16) else None
        cut(s)
        await s.until(lambda: controller.reconnects == 1)
        assert await s.do("S0t1", "read") == 0
        await s.until(lambda: controller.unused)
