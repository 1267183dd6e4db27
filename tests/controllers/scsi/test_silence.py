"""Targets that do not answer commands of the control plane, and queues that have no room for them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, stack
from tests.support.fake_scsi_units import READS, FakeUnit
from tests.support.rig import in_loop
from virtiod.controllers.scsi.commands import MAX_UNANSWERED
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.core.errors import AlreadyExists
from virtiod.scsi.spec import Opcode
from virtiod.virtio.scsi import Response, TmfType


def silent(host: FakeHost, target: int) -> None:
    """Have a target answer nothing from now on."""
    host.hook = lambda c: host.SILENCE if c.target == target else None


def aborting(host: FakeHost) -> None:
    """Have ABORT TASK give the command back, as it should."""

    def abort(subtype: int, target: int, lun: int, task: int) -> int:
        for index, head, command in [h for h in host.held if h[2].id == task]:
            host.held.remove((index, head, command))
            host.answer(index, head, Answer(response=Response.ABORTED))
        return 0

    host.tmf = abort


def scsi(s: Stack) -> ScsiController:
    controller = s.engine.controllers.get("S0")
    assert isinstance(controller, ScsiController)
    return controller


@pytest.mark.waits
@in_loop
async def test_attach_answers_without_a_silent_target_which_appears_when_it_answers(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(), (5, 0): FakeUnit(), (7, 0): FakeUnit()}) as s:
        silent(s.host, 5)
        aborting(s.host)
        with caplog.at_level(logging.INFO):
            assert await s.attach() == ["S0t0", "S0t7"]
            assert not s.host.tmfs  # its command is still waited for
            (held,) = s.host.held
            await s.until(lambda: s.host.tmfs)
            assert s.host.tmfs == [(TmfType.ABORT_TASK, 5, 0, held[2].id)]
            await s.until(lambda: not s.host.held and not scsi(s).request_queues[0].counters().in_flight)
            await s.until(lambda: len(s.host.tmfs) == 2)  # it was asked again
            s.host.hook = lambda _: None
            await s.until(lambda: ("bdev_register", "S0t5") in s.events)
        assert await s.do("S0t5", "read") == 0
        said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert said == ["controller S0: target 5 LUN 0: no answer to command 0x12"]


@pytest.mark.waits
@in_loop
async def test_a_device_that_ignores_aborts_keeps_what_it_was_sent_and_is_not_sent_more(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(), (5, 0): FakeUnit()}) as s:
        silent(s.host, 5)
        s.host.tmf = lambda *_: None
        assert await s.attach() == ["S0t0"]
        await s.until(lambda: "no answer to ABORT TASK" in caplog.text)
        for _ in range(4):
            scsi(s)._rescan({5})
            await s.until(lambda: scsi(s)._scans.idle)
        assert len(s.host.held) == MAX_UNANSWERED
        s.host.hook = lambda _: None
        s.host.release()
        await s.until(lambda: not scsi(s)._commands.silent(5))  # type: ignore[union-attr]
        scsi(s)._rescan({5})
        await s.until(lambda: ("bdev_register", "S0t5") in s.events)


@in_loop
async def test_silent_targets_beyond_number_do_not_keep_others_from_being_found(run_dir: Path) -> None:
    units = {(t, 0): FakeUnit() for t in (0, 100, 255)}
    host = FakeHost(units)
    host.max_target = 255
    async with stack(run_dir, units, host=host) as s:
        aborting(host)
        host.hook = lambda c: host.SILENCE if c.target < 100 and c.target % 2 else None
        assert await s.attach() == ["S0t0", "S0t100", "S0t255"]


@in_loop
async def test_bdevs_are_there_while_a_target_is_still_looked_at(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units) as s:

        def slow(command: Command) -> Answer | None:
            """Answers INQUIRY, so it is waited for."""
            return s.host.SILENCE if command.target == 1 and command.cdb[0] == Opcode.SERVICE_ACTION_IN_16 else None

        s.host.hook = slow
        attaching = asyncio.ensure_future(s.attach())
        await s.until(lambda: ("bdev_register", "S0t0") in s.events and s.host.held)
        assert not attaching.done()
        assert await s.do("S0t0", "write") == 0
        s.host.hook = lambda _: None
        s.host.release()
        assert await attaching == ["S0t0", "S0t1"]


@in_loop
async def test_an_attach_that_fails_late_takes_its_bdevs_with_it(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(), (1, 0): FakeUnit()}) as s:
        s.engine.nulls.create("S0t1", 100)
        with pytest.raises(AlreadyExists, match="S0t1"):
            await s.attach()
        assert [b.name for b in s.engine.bdevs.list()] == ["S0t1"]
        assert s.engine.controllers.list() == []


@in_loop
async def test_a_queue_full_of_io_has_room_for_a_scan(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach(vq_size=16)
        s.host.hook = lambda c: s.host.SILENCE if c.cdb[0] in READS else None
        reads = [asyncio.ensure_future(s.do("S0t0", "read", 512 * i)) for i in range(64)]
        await s.until(lambda: len(s.host.held) == 15)
        units[1, 0] = FakeUnit()
        scsi(s)._rescan({1})
        await s.until(lambda: ("bdev_register", "S0t1") in s.events)
        s.host.hook = lambda _: None
        s.host.release()
        assert await asyncio.gather(*reads) == [0] * 64


@pytest.mark.waits
@in_loop
async def test_a_unit_that_is_silent_on_return_is_not_asked_for_its_cache(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): FakeUnit(), (1, 0): FakeUnit(naa=2)}) as s:
        await s.attach()
        controller = scsi(s)
        asked: list[int] = []

        def hook(command: Command) -> Answer | None:
            if command.target == 0 and controller.state != "up":
                asked.append(command.cdb[0])
            return s.host.SILENCE if command.target == 0 else None

        s.host.hook = hook
        aborting(s.host)
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        await s.until(lambda: controller.reconnects == 1)
        assert set(asked) == {Opcode.INQUIRY}
        assert controller._disks[0, 0].bdev.channels.cache_doubts()
        assert await s.do("S0t1", "read") == 0
