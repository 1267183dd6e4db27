"""What a scan makes of units whose answers can't be."""

from __future__ import annotations

import asyncio
import logging
import random
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, Stack, check, stack
from tests.support.fake_scsi_units import FakeUnit, fixed_sense
from tests.support.rig import in_loop
from virtiod.controllers.scsi.controller import ScsiController
from virtiod.controllers.scsi.discovery import MAX_TOLD
from virtiod.core.errors import ProtocolError, VirtiodError
from virtiod.scsi import parse
from virtiod.scsi.spec import Asc, CdbFlag, Opcode, SenseKey, Status, VpdPage
from virtiod.transports.vhost_user.transport import VhostUserTransport


def unit(number: int) -> FakeUnit:
    return FakeUnit(serial=f"SN-{number}", naa=0x5000000000000000 + number)


def capacity(target: int, last: int, block_size: int) -> Callable[[Command], Answer | None]:
    """A hook: that target's units answer so to READ CAPACITY(16)."""

    def hook(command: Command) -> Answer | None:
        if command.target == target and command.cdb[0] == Opcode.SERVICE_ACTION_IN_16:
            return Answer(data=struct.pack(">QI20x", last, block_size))
        return None

    return hook


@pytest.mark.parametrize(
    ("last", "block_size", "why"),
    [
        (999, 0, "block size 0 is not a power of two"),
        (999, 1, "block size 1 is"),
        (999, 520, "block size 520 is"),
        (999, 1 << 17, "block size 131072 is"),
        (999, 0xFFFFFFFF, "block size 4294967295 is"),
        ((1 << 64) - 1, 512, "18446744073709551616 blocks of 512 bytes is too large"),
        (1 << 62, 65536, "too large"),
    ],
)
@in_loop
async def test_a_unit_of_a_geometry_that_cannot_be_costs_the_others_nothing_and_is_told_of(
    run_dir: Path, last: int, block_size: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(run_dir, {(n, 0): unit(n) for n in range(3)}) as s:
        s.host.hook = capacity(1, last, block_size)
        assert await s.attach() == ["S0t0", "S0t2"]
        (unused,) = s.engine.controllers.get("S0").unused
        assert unused.startswith("target 1 LUN 0 is not used: ")
        assert why in unused
        assert any(unused in r.getMessage() and r.levelno == logging.WARNING for r in caplog.records)
        assert await s.do("S0t2", "read") == 0


@in_loop
async def test_an_attach_fails_when_no_unit_of_a_controller_can_be_used(run_dir: Path) -> None:
    async with stack(run_dir, {(1, 0): unit(1)}) as s:
        s.host.hook = capacity(1, 999, 0)
        with pytest.raises(ProtocolError, match="target 1 LUN 0 is not used: READ CAPACITY data: block size 0 is not"):
            await s.attach()
        s.host.hook = lambda _: None
        assert await s.attach() == ["S0t1"]
        assert s.engine.controllers.get("S0").unused == []


@in_loop
async def test_of_very_many_units_that_can_not_be_used_some_are_named_and_all_are_counted(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): unit(0), **{(1, n): unit(1) for n in range(MAX_TOLD + 3)}}) as s:
        s.host.hook = capacity(1, 999, 0)
        assert await s.attach() == ["S0t0"]
        unused = s.engine.controllers.get("S0").unused
        assert [one.split(" is")[0] for one in unused] == [
            *(f"target 1 LUN {n}" for n in range(MAX_TOLD)),
            "and 3 more",
        ]


@in_loop
async def test_what_nobody_foresaw_of_one_target_is_logged_and_ends_no_scan_of_others(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = parse.serial

    def broken(data: bytes) -> str:
        found = real(data)
        return str(1 // 0) if found == "SN-1" else found

    monkeypatch.setattr(parse, "serial", broken)
    async with stack(run_dir, {(n, 0): unit(n) for n in range(3)}) as s:
        assert await s.attach() == ["S0t0", "S0t2"]
        controller = s.engine.controllers.get("S0")
        assert controller.unused == ["target 1 is not used: ZeroDivisionError: integer division or modulo by zero"]
        said = [(r.getMessage(), bool(r.exc_info)) for r in caplog.records if r.levelno == logging.ERROR]
        assert said == [(f"controller S0: {controller.unused[0]}", True)]
        caplog.clear()  # tracebacks hold what they passed through
        monkeypatch.setattr(parse, "serial", real)
        await s.until(lambda: ("bdev_register", "S0t1") in s.events)  # it is looked at again by itself
        assert controller.unused == []


def spoiled(s: Stack, rnd: random.Random) -> Callable[[Command], Answer | None]:
    """A hook: a third of all answers has a few wrong bytes, or ends early."""

    def hook(command: Command) -> Answer | None:
        if rnd.random() >= 0.35:
            return None
        answer = s.host.execute(command)
        data = bytearray(answer.data or rnd.randbytes(command.length))
        for _ in range(rnd.choice((1, 2, 8)) if data else 0):
            data[rnd.randrange(len(data))] = rnd.choice((0, 0xFF, 1, 0x80, rnd.getrandbits(8)))
        if rnd.random() < 0.3:
            del data[rnd.randrange(len(data) + 1) :]
        return Answer(data=bytes(data), status=answer.status, sense=answer.sense)

    return hook


@pytest.mark.parametrize("seed", range(8))
@in_loop
async def test_whatever_units_answer_an_attach_ends_in_bdevs_or_in_an_error_of_its_own(
    run_dir: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(run_dir, {(0, 0): unit(0), (1, 0): unit(1)}) as s:
        s.host.max_target = 1
        s.host.hook = spoiled(s, random.Random(seed))
        for n in range(8):
            try:
                await asyncio.wait_for(s.attach(f"S{n}"), 15)
            except VirtiodError:
                continue
            await s.engine.controllers.detach(f"S{n}")
    unforeseen = [r.getMessage() for r in caplog.records if r.exc_info]
    assert not unforeseen


@in_loop
async def test_a_unit_that_refuses_everything_is_no_disk_and_no_error(run_dir: Path) -> None:
    async with stack(run_dir, {(0, 0): unit(0), (1, 0): unit(1)}) as s:
        refusal = Answer(status=Status.CHECK_CONDITION, sense=fixed_sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPCODE))
        s.host.hook = lambda command: refusal if command.target == 1 and command.cdb[0] != Opcode.INQUIRY else None
        assert await s.attach() == ["S0t0"]
        assert s.engine.controllers.get("S0").unused == []


@in_loop
async def test_a_device_whose_rings_hold_no_request_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VhostUserTransport, "max_queue_size", lambda _: 2)
    async with stack(run_dir, {(0, 0): unit(0)}) as s:
        with pytest.raises(ProtocolError, match="the device's queues have 2 entries, too few"):
            await s.attach()


FAILURES = {
    "aborted": check(SenseKey.ABORTED_COMMAND),
    "parity": check(SenseKey.ABORTED_COMMAND, Asc.PARITY_ERROR),
    "hardware": check(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE),
    "becoming ready": check(SenseKey.NOT_READY, Asc.BECOMING_READY),
    "no sense": Answer(status=Status.CHECK_CONDITION),
    "nothing": Answer(),
}


def is_page(page: int, command: Command) -> bool:
    return command.cdb[:3] == bytes([Opcode.INQUIRY, CdbFlag.EVPD, page])


ASKED: dict[str, Callable[[Command], bool]] = {
    "REPORT LUNS": lambda c: c.cdb[0] == Opcode.REPORT_LUNS,
    "INQUIRY": lambda c: c.cdb[0] == Opcode.INQUIRY and not c.cdb[1],
    "READ CAPACITY": lambda c: c.cdb[0] == Opcode.SERVICE_ACTION_IN_16,
    "MODE SENSE": lambda c: c.cdb[0] == Opcode.MODE_SENSE_10,
    **{
        f"VPD page {page:#x}": partial(is_page, page)
        for page in (VpdPage.SUPPORTED_PAGES, VpdPage.UNIT_SERIAL_NUMBER, VpdPage.DEVICE_IDENTIFICATION)
    },
}


def once(asked: Callable[[Command], bool], answer: Answer) -> Callable[[Command], Answer | None]:
    """A hook: that answer to the first such command of each LUN."""
    seen: set[tuple[int, int]] = set()

    def hook(command: Command) -> Answer | None:
        place = command.target, command.lun
        if place in seen or not asked(command):
            return None
        seen.add(place)
        return answer

    return hook


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("asked", ASKED)
@in_loop
async def test_a_disk_that_fails_one_command_of_a_scan_is_not_gone(run_dir: Path, asked: str, failure: str) -> None:
    units = {(0, 0): unit(0), (0, 1): unit(1)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        assert isinstance(controller, ScsiController)
        await s.until(lambda: controller._scans.idle)
        names = ["S0t0", "S0t0l1"]
        for name in names:
            assert await s.do(name, "write") == 0
        s.host.hook = once(ASKED[asked], FAILURES[failure])
        controller._rescan({0})
        await s.until(lambda: controller._scans.settled)
        for name, serial in zip(names, ("SN-0", "SN-1"), strict=True):
            assert await s.do(name, "flush", 0, 0) == 0
            bdev = s.engine.bdevs.get(name)
            assert (bdev.info.serial, bdev.channels.losses()) == (serial, 0)
        assert [kind for kind, _ in s.events if kind != "bdev_register"] == []


@pytest.mark.parametrize("failure", ["aborted", "hardware", "becoming ready"])
@pytest.mark.parametrize("asked", [asked for asked in ASKED if asked.startswith("VPD")])
@in_loop
async def test_a_disk_that_fails_to_tell_its_names_is_no_bdev_before_it_does(
    run_dir: Path, asked: str, failure: str
) -> None:
    async with stack(run_dir, {(0, 0): unit(0)}) as s:
        s.host.hook = once(ASKED[asked], FAILURES[failure])
        await s.attach()
        await s.until(lambda: ("bdev_register", "S0t0") in s.events)
        assert s.engine.bdevs.get("S0t0").info.serial == "SN-0"
