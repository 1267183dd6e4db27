"""What the device answers wrong, late or not at all, and what the I/O's submitter sees of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.fake_scsi_host import SENSE_SIZE, Answer, Command, FakeHost, stack
from tests.support.fake_scsi_units import FLUSHES, READS, WRITES, FakeUnit, deferred, descriptor_sense, fixed_sense
from tests.support.rig import in_loop
from tests.support.rings import Ring, each_ring
from virtiod.bdev.probe import Flag
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.core import lograte
from virtiod.scsi import cdb
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status, VpdPage
from virtiod.target.scsi.device import CAPACITY_CHANGED
from virtiod.virtio.scsi import RESP_HEADER, EventType, Response


def on_io(
    answer: Answer | None, times: int = 1 << 30, ops: frozenset[int] = READS | WRITES
) -> Callable[[Command], Answer | None]:
    """A hook that answers the first I/Os so."""
    left = [times]

    def hook(command: Command) -> Answer | None:
        if command.cdb[0] not in ops or not left[0]:
            return None
        left[0] -= 1
        return answer

    return hook


def check(sense: bytes) -> Answer:
    return Answer(status=Status.CHECK_CONDITION, sense=sense)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(response=Response.OVERRUN), errno.EIO),
        (Answer(response=Response.BAD_TARGET), errno.ENODEV),
        (Answer(response=Response.TARGET_FAILURE), errno.EIO),
        (Answer(response=Response.NEXUS_FAILURE), errno.EIO),
        (Answer(response=Response.FAILURE), errno.EIO),
        (Answer(response=77), errno.EIO),
        (Answer(written=False), errno.EIO),
        (Answer(status=Status.RESERVATION_CONFLICT), errno.EIO),
        (Answer(status=Status.ACA_ACTIVE), errno.EIO),
        (Answer(status=0x77), errno.EIO),
        (check(b""), errno.EIO),
        (check(b"\x70"), errno.EIO),
        (check(bytes(18)), errno.EIO),
        (check(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)), errno.EIO),
        (check(descriptor_sense(SenseKey.MEDIUM_ERROR, Asc.READ_ERROR_REALLOCATION_FAILED)), errno.EIO),
        (check(fixed_sense(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE)), errno.EIO),
        (check(fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPCODE)), errno.EOPNOTSUPP),
        (check(fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)), errno.ENOSPC),
        (check(fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)), errno.EIO),
        (check(fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)), errno.ENODEV),
        (check(fixed_sense(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)), errno.EPERM),
        (check(descriptor_sense(SenseKey.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED)), errno.ENOSPC),
        (check(fixed_sense(SenseKey.VOLUME_OVERFLOW)), errno.ENOSPC),
        (check(fixed_sense(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)), errno.EIO),
        (Answer(data=bytes(100), resid=412), errno.EIO),
        (Answer(data=bytes(100), resid=412, status=Status.CONDITION_MET), errno.EIO),
        (replace(check(fixed_sense(SenseKey.RECOVERED_ERROR, 0x17)), data=bytes(100), resid=412), errno.EIO),
        (replace(check(descriptor_sense(SenseKey.NO_SENSE)), data=bytes(100), resid=412), errno.EIO),
        (Answer(data=bytes(512), used=1), errno.EIO),
        (Answer(data=bytes(512), used=RESP_HEADER + SENSE_SIZE), errno.EIO),
        (Answer(data=bytes(512), used=RESP_HEADER + 511), errno.EIO),
        (replace(check(fixed_sense(SenseKey.RECOVERED_ERROR)), data=bytes(512), used=RESP_HEADER + 100), errno.EIO),
        (check(deferred(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR))), errno.EIO),
        (Answer(response=Response.RESET), errno.EIO),
        (Answer(response=Response.TRANSPORT_FAILURE), errno.EIO),
        (check(fixed_sense(SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)), errno.EIO),
        (check(fixed_sense(SenseKey.ABORTED_COMMAND)), errno.EIO),
    ],
)
@in_loop
async def test_an_answer_that_stays_wrong_fails_the_io(run_dir: Path, answer: Answer, code: int) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        s.host.hook = on_io(answer)
        assert await s.do("S0t0", "read") == -code
        s.host.hook = lambda _: None
        if code != errno.ENODEV:
            assert await s.do("S0t0", "read") == 0


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=Status.BUSY),
        Answer(status=Status.TASK_SET_FULL),
        Answer(status=Status.TASK_ABORTED),
        Answer(response=Response.ABORTED),
        Answer(response=Response.RESET),
        Answer(response=Response.BUSY),
        Answer(response=Response.TRANSPORT_FAILURE),
        check(fixed_sense(SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)),
        check(descriptor_sense(SenseKey.UNIT_ATTENTION, Asc.MODE_PARAMETERS_CHANGED)),
        check(fixed_sense(SenseKey.ABORTED_COMMAND, Asc.PARITY_ERROR)),
        check(fixed_sense(SenseKey.NOT_READY, Asc.BECOMING_READY)),
        check(deferred(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR))),
        check(deferred(descriptor_sense(SenseKey.HARDWARE_ERROR))),
        check(deferred(fixed_sense(SenseKey.RECOVERED_ERROR, 0x17))),
        check(deferred(descriptor_sense(SenseKey.RECOVERED_ERROR, 0x17))),
        check(deferred(fixed_sense(SenseKey.NO_SENSE))),
        check(deferred(fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED))),
    ],
)
@in_loop
async def test_what_passes_is_retried(run_dir: Path, answer: Answer) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        s.host.hook = on_io(answer, times=5)
        s.probe("S0t0").buffer[:512] = b"x" * 512
        results = await asyncio.gather(*(s.do("S0t0", "write", 512 * i) for i in range(4)))
        assert results == [0] * 4
        assert [unit.data[i] for i in range(4)] == [b"x" * 512] * 4


@each_ring
@in_loop
async def test_a_deferred_error_is_told_as_a_loss_of_what_was_acknowledged_before(
    run_dir: Path, caplog: pytest.LogCaptureFixture, ring: Ring
) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, ring=ring) as s:
        await s.attach()
        channels = s.engine.bdevs.get("S0t0").channels
        s.host.hook = on_io(check(deferred(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR))), times=1)
        s.probe("S0t0").buffer[:512] = b"x" * 512
        assert await s.do("S0t0", "write") == 0
        assert unit.data[0] == b"x" * 512
        assert channels.losses() == 1
        await s.until(lambda: "deferred medium error: write error (3/0c/00)" in caplog.text)
        await s.until(lambda: ("bdev_writes_lost", "S0t0") in s.events)
        s.host.hook = on_io(check(deferred(fixed_sense(SenseKey.RECOVERED_ERROR, 0x17))), times=1)
        assert await s.do("S0t0", "read") == 0
        assert channels.losses() == 1


@in_loop
async def test_each_deferred_error_is_told_without_the_place_of_the_command_that_met_it(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lograte, "INTERVAL_S", 0.0)
    lost = check(deferred(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)))
    expected = (
        "bdev S0t0: acknowledged writes are lost, target 0 LUN 0: deferred medium error: write error (3/0c/00): "
        "the next flush of each of its users fails"
    )

    def told() -> list[str]:
        errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        return [message for message in errors if "target 0 LUN 0" in message]

    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        for times in (1, 2):
            s.host.hook = on_io(lost, times=1)
            assert await s.do("S0t0", "read", 4096) == 0
            await s.until(lambda: len(told()) == times)  # noqa: B023
        assert told() == [expected, expected]


@pytest.mark.parametrize("sense", [fixed_sense, descriptor_sense])
@in_loop
async def test_a_flush_that_meets_a_deferred_error_fails_and_the_next_one_succeeds(
    run_dir: Path, sense: Callable[[int, int], bytes]
) -> None:
    unit = FakeUnit(fua=False)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        channels = s.engine.bdevs.get("S0t0").channels
        lost = check(deferred(sense(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)))
        assert await s.do("S0t0", "write") == 0
        s.host.hook = on_io(lost, times=1, ops=FLUSHES)
        assert await s.do("S0t0", "flush", 0, 0) == -errno.EIO
        assert channels.losses() == 1
        assert await s.do("S0t0", "flush", 0, 0) == 0
        s.host.hook = on_io(lost, times=1, ops=FLUSHES)
        assert await s.do("S0t0", "write", flags=Flag.FUA) == -errno.EIO  # its flush met the error
        assert await s.do("S0t0", "flush", 0, 0) == -errno.EIO  # that was said of this write only
        s.host.hook = on_io(check(deferred(sense(SenseKey.RECOVERED_ERROR, 0x17))), times=1, ops=FLUSHES)
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert channels.losses() == 2


@in_loop
async def test_a_deferred_error_that_a_command_of_the_control_plane_meets_is_told_too(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        lost = check(deferred(descriptor_sense(SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)))
        s.host.hook = on_io(lost, times=1, ops=frozenset({Opcode.TEST_UNIT_READY}))
        s.host.send_event(EventType.PARAM_CHANGE, 0, 0, CAPACITY_CHANGED)
        await s.until(lambda: "deferred illegal request: logical unit not supported" in caplog.text)
        assert ("bdev_writes_lost", "S0t0") in s.events
        assert s.engine.bdevs.get("S0t0").channels.losses() == 1
        assert await s.do("S0t0", "read") == 0


@pytest.mark.parametrize("used", [RESP_HEADER + 512, RESP_HEADER + SENSE_SIZE + 512, 0xFFFFFFFF, 0])
@in_loop
async def test_a_used_length_that_covers_the_data_or_says_nothing_is_a_success(run_dir: Path, used: int) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        s.host.hook = on_io(Answer(data=bytes(512), used=used))
        assert await s.do("S0t0", "read") == 0
        assert await s.do("S0t0", "write") == 0


@in_loop
async def test_a_unit_that_writes_nothing_does_not_seem_to_say_what_was_said_before(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(serial="before")}) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        commands = controller._commands
        assert commands is not None
        asked = cdb.inquiry(VpdPage.UNIT_SERIAL_NUMBER)
        assert b"before" in await commands.run(0, 0, asked, cdb.LONG)
        s.host.hook = lambda _: Answer(resid=0)
        assert await commands.run(0, 0, asked, cdb.LONG) == bytes(cdb.LONG)


@pytest.mark.parametrize("key", [SenseKey.NO_SENSE, SenseKey.RECOVERED_ERROR, SenseKey.COMPLETED])
@in_loop
async def test_recovered_errors_are_successes(run_dir: Path, key: int) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        s.host.hook = on_io(Answer(status=Status.CHECK_CONDITION, sense=fixed_sense(key, 0x17), data=bytes(512)))
        assert await s.do("S0t0", "read") == 0


@in_loop
async def test_an_error_is_logged_once_not_per_io(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}) as s:
        await s.attach()
        s.host.hook = on_io(check(fixed_sense(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)))
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                results = await asyncio.gather(*(s.do("S0t0", "read", 512 * i) for i in range(20)))
                assert results == [-errno.EIO] * 20
                await asyncio.sleep(0.1)
            await s.until(lambda: "unrecovered" in caplog.text)
        said = [r.getMessage() for r in caplog.records if "unrecovered" in r.getMessage()]
        assert len(said) == 1
        assert "target 0 LUN 0: read at byte 0: medium error: unrecovered read error (3/11/00)" in said[0]


@in_loop
async def test_a_unit_that_stays_busy_times_out(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}, io_timeout_s=1.0) as s:
        await s.attach()
        s.host.hook = on_io(Answer(status=Status.BUSY))
        assert await s.do("S0t0", "read") == -errno.ETIMEDOUT
        assert s.engine.controllers.list()[0].reconnects == 0


@pytest.mark.waits
@in_loop
async def test_an_overdue_request_is_aborted_and_others_go_on(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(), (1, 0): FakeUnit()}, io_timeout_s=1.0) as s:
        await s.attach()
        host = s.host

        def abort(subtype: int, target: int, lun: int, task: int) -> int:
            for index, head, command in [h for h in host.held if h[2].id == task]:
                host.held.remove((index, head, command))
                host.answer(index, head, Answer(response=Response.ABORTED))
            return 0

        host.tmf = abort
        host.hook = lambda c: host.SILENCE if c.target == 0 and c.cdb[0] in READS else None
        slow = asyncio.ensure_future(s.do("S0t0", "read"))
        while not slow.done():
            assert await s.do("S0t1", "read") == 0
        assert slow.result() == -errno.ETIMEDOUT
        assert [(t[0], t[1], t[2]) for t in host.tmfs] == [(0, 0, 0)]
        controller = s.engine.controllers.list()[0]
        assert (controller.reconnects, controller.io_timeouts) == (0, 1)


@pytest.mark.waits
@in_loop
async def test_a_device_that_does_not_abort_is_cut_off(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit()}, io_timeout_s=0.5) as s:
        await s.attach()
        s.host.tmf = lambda *_: None
        s.host.hook = on_io(FakeHost.SILENCE, times=1)
        assert await s.do("S0t0", "read") == -errno.ETIMEDOUT
        s.probe("S0t0")
        await s.until(lambda: s.engine.controllers.list()[0].reconnects == 1)
        assert await s.do("S0t0", "read") == 0


@in_loop
async def test_a_silent_target_delays_only_its_own_scan(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (200, 0): FakeUnit()}
    host = FakeHost(units)
    host.max_target = 255
    async with stack(run_dir, units, host=host) as s:
        scan = Stopwatch(threads())
        assert await s.attach() == ["S0t0", "S0t200"]
        assert scan.own_s() < 5
        assert host.commands >= 256
        host.hook = lambda c: host.SILENCE if c.target == 7 else None
        controller = s.engine.controllers.list()[0]
        assert isinstance(controller, ScsiController)
        controller._rescan(None)
        slowest, scan = 0.0, Stopwatch([])
        while not controller._scans.idle:
            before = time.monotonic()
            assert await s.do("S0t0", "read") == 0
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < scan.elapsed_s() / 2  # none waited for it
        assert [b.name for b in s.engine.bdevs.list()] == ["S0t0", "S0t200"]


@each_ring
@in_loop
async def test_io_in_flight_survives_a_device_that_dies(run_dir: Path, ring: Ring) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}, ring=ring) as s:
        await s.attach()
        s.host.hook = on_io(FakeHost.SILENCE, times=3)
        s.probe("S0t0").buffer[:512] = b"y" * 512
        waiting = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(3)]
        await s.until(lambda: len(s.host.held) == 3)
        controller = s.engine.controllers.list()[0]
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        assert await asyncio.gather(*waiting) == [0] * 3
        assert len(unit.data) == 3
        await s.until(lambda: controller.reconnects == 1)  # its I/O may be answered before it is up
