"""What the device answers wrong, late or not at all, and what the I/O's submitter sees of it."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.fake_scsi_host import Answer, Command, FakeHost, stack
from tests.support.fake_scsi_units import READS, WRITES, FakeUnit, descriptor_sense, fixed_sense
from tests.support.rig import in_loop
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.scsi.spec import Asc, SenseKey, Status
from virtiod.virtio.scsi import Response


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


@pytest.mark.parametrize("key", [0, 1])
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
        while controller._scanning is not None:
            before = time.monotonic()
            assert await s.do("S0t0", "read") == 0
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < scan.elapsed_s() / 2  # none waited for it
        assert [b.name for b in s.engine.bdevs.list()] == ["S0t0", "S0t200"]


@in_loop
async def test_io_in_flight_survives_a_device_that_dies(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
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
