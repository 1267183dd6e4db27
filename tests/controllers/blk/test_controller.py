"""A virtio-blk device that is lost and comes back: with its disk, or with another one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.bdev.probe import Probe
from virtiod.controllers.blk import controller
from virtiod.controllers.controller import Controller
from virtiod.controllers.description import BlkUnit
from virtiod.controllers.request import AttachRequest
from virtiod.core import lograte
from virtiod.core.levels import NOTICE
from virtiod.system import System
from virtiod.target.blk.device import DiskSpec, Fault
from virtiod.target.target import Target

MIB = 1 << 20


class Rig:
    """A controller D0 on a disk of a file, whose target can be replaced."""

    def __init__(self, run_dir: Path, system: System) -> None:
        self.path, self.image = str(run_dir / "d.sock"), run_dir / "disk.img"
        self.image.write_bytes(bytes(MIB))
        self.spec = DiskSpec(path=str(self.image), serial="A")
        self.system = system
        self.target: Target | None = None

    @property
    def controller(self) -> Controller[Any]:
        return self.system.controllers.get("D0")

    async def serve(self, spec: DiskSpec) -> None:
        """In place of what was served before."""
        await self.leave()
        self.target = Target({self.path: spec})
        await self.target.start()

    async def leave(self) -> None:
        if self.target is not None:
            await self.target.stop()
            self.target = None


@contextlib.asynccontextmanager
async def rig(run_dir: Path) -> AsyncIterator[Rig]:
    system = System([-1], memory_mib=16)
    system.start()
    found = Rig(run_dir, system)
    try:
        yield found
    finally:
        await system.stop()
        await found.leave()


def other(run_dir: Path, spec: DiskSpec, kind: str) -> tuple[DiskSpec, str]:
    """Another disk, and what tells it from the first one."""
    image = run_dir / "other.img"
    image.write_bytes(bytes(MIB // 2 if kind == "smaller" else MIB))
    found = replace(spec, path=str(image))
    if kind == "smaller":
        return found, "it has 524288 bytes, it had 1048576"
    if kind == "block size":
        return replace(found, block_size=4096), "its block size is 4096, it was 512"
    return replace(found, serial="B"), "its serial is 'B', it was 'A'"


@pytest.mark.waits
@pytest.mark.parametrize("kind", ["serial", "smaller", "block size"])
@in_loop
async def test_another_disk_gets_no_write_and_the_operator_is_told(run_dir: Path, kind: str) -> None:
    async with rig(run_dir) as r:
        await r.serve(replace(r.spec, fault=Fault("silence", after=1)))  # GET_ID is answered
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        probe = Probe(r.system.memory, r.system.pollers[0], r.system.bdevs.get("D0").channels)
        probe.buffer[:512] = b"w" * 512
        write = asyncio.ensure_future(probe.submit("write", 0, 512))
        await until(lambda: r.controller.queues[0].in_flight == 1)
        stranger, why = other(run_dir, r.spec, kind)
        await r.serve(stranger)
        expected = (
            f"{r.path}: the device came back as another disk: {why}. I/O waits for the old one; "
            "to use this one, detach the controller and attach it again"
        )
        await until(lambda: r.controller.last_error == expected)
        assert r.controller.state == "reconnecting"
        assert not write.done()
        await r.serve(r.spec)
        assert await write == 0
        await until(lambda: r.controller.state == "up")
        assert r.image.read_bytes()[:512] == b"w" * 512
        assert not any((run_dir / "other.img").read_bytes())


@in_loop
async def test_a_device_that_does_not_tell_its_serial_is_asked_again(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "ID_DEADLINE_S", 0.2)
    async with rig(run_dir) as r:
        await r.serve(r.spec)
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        await r.serve(replace(r.spec, fault=Fault("silence", after=0)))
        why = "it does not tell its serial"
        expected = f"{r.path}: does not tell whether it is still the same disk ({why}); it is asked again"
        await until(lambda: r.controller.last_error == expected)
        await r.serve(r.spec)
        await until(lambda: r.controller.state == "up")
        assert "another disk" not in caplog.text


@in_loop
async def test_a_disk_that_is_larger_is_the_same_and_its_users_learn_of_it(run_dir: Path) -> None:
    async with rig(run_dir) as r:
        await r.serve(r.spec)
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        await r.leave()
        with r.image.open("r+b") as file:
            file.truncate(2 * MIB)
        await r.serve(r.spec)
        await until(lambda: r.controller.reconnects == 1)
        await until(lambda: r.system.bdevs.get("D0").size == 2 * MIB)


@in_loop
async def test_a_loss_is_a_warning_and_a_return_a_notice_once_a_second_at_most(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lograte, "INTERVAL_S", 3600.0)
    caplog.set_level(logging.DEBUG, "virtiod")
    async with rig(run_dir) as r:
        await r.serve(r.spec)
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        for times in (1, 2):
            await r.serve(r.spec)
            await until(lambda: r.controller.reconnects == times)  # noqa: B023
        changes = [
            (record.levelno, record.getMessage().split(" (")[0])
            for record in caplog.records
            if " -> " in record.getMessage()
        ]
    assert changes == [
        (logging.INFO, "controller D0: attaching -> up"),
        (logging.WARNING, "controller D0: up -> reconnecting"),
        (NOTICE, "controller D0: reconnecting -> up"),
        (logging.DEBUG, "controller D0: up -> reconnecting"),
        (logging.DEBUG, "controller D0: reconnecting -> up"),
    ]


@in_loop
async def test_the_log_ends_with_the_state_as_it_is(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(run_dir) as r:
        await r.serve(r.spec)
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))

        def changes() -> list[str]:
            told = [record.getMessage().split(" (")[0] for record in caplog.records if record.levelno > logging.DEBUG]
            return [message for message in told if " -> " in message]

        caplog.set_level(logging.INFO, "virtiod")
        await r.serve(r.spec)
        await until(lambda: r.controller.reconnects == 1)
        await r.leave()
        await until(lambda: r.controller.state == "reconnecting")
        await until(lambda: changes()[-1] == "controller D0: up -> reconnecting")


@in_loop
async def test_a_disk_that_fails_to_tell_its_serial_once_is_asked_again(run_dir: Path) -> None:
    async with rig(run_dir) as r:
        await r.serve(replace(r.spec, fault=Fault("error", times=1)))
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        assert r.system.bdevs.get("D0").info.serial == "A"


@in_loop
async def test_a_disk_that_tells_its_serial_late_is_compared_by_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "ID_DEADLINE_S", 0.01)
    async with rig(run_dir) as r:
        await r.serve(replace(r.spec, fault=Fault("error", times=1)))
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        bdev = r.system.bdevs.get("D0")
        assert bdev.info.serial == ""
        await until(lambda: bdev.info.serial == "A")
        assert bdev.driver_specific()["blk"] == BlkUnit(serial="A")


@pytest.mark.parametrize("kind", ["error", "silence"])
@in_loop
async def test_a_disk_whose_serial_could_not_be_read_is_not_taken_for_one_that_tells_its_own(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(controller, "ID_DEADLINE_S", 0.5)
    monkeypatch.setattr(controller, "ASK_AGAIN_S", (60.0,))
    async with rig(run_dir) as r:
        await r.serve(replace(r.spec, fault=Fault(kind, times=1)))
        await r.system.controllers.attach(AttachRequest("D0", "user", r.path, "blk"))
        probe = Probe(r.system.memory, r.system.pollers[0], r.system.bdevs.get("D0").channels)
        assert await probe.submit("write", 0, 512) == 0
        stranger, _ = other(run_dir, r.spec, "serial")
        asked = []
        ask = controller.BlkController._serial

        async def count(self: controller.BlkController) -> str | None:
            asked.append(await ask(self))
            return asked[-1]

        monkeypatch.setattr(controller.BlkController, "_serial", count)
        await r.serve(stranger)
        await until(lambda: asked.count("B") == 3)
        assert "its serial is 'B', the old one's could not be read" in r.controller.last_error
        assert r.controller.state == "reconnecting"
        assert not any((run_dir / "other.img").read_bytes())
