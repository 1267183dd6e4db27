"""A controller that lost its device comes back, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_scsi_host import Stack, stack
from tests.support.fake_scsi_units import FakeUnit
from tests.support.rig import in_loop
from virtiod.controllers import attempts
from virtiod.controllers.controller import BRIEF_S, Controller, State
from virtiod.controllers.request import AttachRequest
from virtiod.core import libc
from virtiod.core.errors import LostError, NotSupported, ProtocolError
from virtiod.core.lograte import LogRate
from virtiod.core.memory import Region
from virtiod.target.blk.device import DiskSpec
from virtiod.target.target import Target
from virtiod.transports.vhost_user import arrivals, wire
from virtiod.transports.vhost_user.transport import VhostUserTransport

UNITS = {(0, 0): FakeUnit()}


def controller_of(s: Stack) -> Controller[Any]:
    return s.engine.controllers.get("S0")


def lose(controller: Controller[Any], why: str = "the connection ended") -> None:
    assert controller.transport.on_lost is not None
    controller.transport.on_lost(LostError(why))


@pytest.mark.parametrize(("where", "often"), [("connect", 3), ("driver_ok", 3), ("close", 1)])
@in_loop
async def test_what_nobody_foresaw_is_logged_once_and_the_attempt_repeated(
    run_dir: Path, where: str, often: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = getattr(VhostUserTransport, where)
    times: list[str] = []

    async def broken(*args: object) -> None:
        if len(times) < often:
            times.append(where)
            raise ZeroDivisionError("nobody foresaw this")
        await real(*args)

    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = controller_of(s)
        monkeypatch.setattr(VhostUserTransport, where, broken)
        lose(controller)
        await s.until(lambda: controller.state is State.UP)
        assert controller.reconnects == 1
        assert await s.do("S0t0", "read") == 0
        assert len(times) == often
    assert [bool(r.exc_info) for r in caplog.records if r.levelno == logging.ERROR] == [True]
    caplog.clear()  # tracebacks hold what they passed through


@in_loop
async def test_a_device_that_is_waited_for_is_tried_again_after_what_nobody_foresaw(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = VhostUserTransport.driver_ok
    times: list[int] = []

    async def broken(transport: VhostUserTransport) -> None:
        if len(times) < 2:
            times.append(1)
            raise ZeroDivisionError("nobody foresaw this")
        await real(transport)

    monkeypatch.setattr(VhostUserTransport, "driver_ok", broken)
    path = str(run_dir / "late.sock")
    async with stack(run_dir, UNITS) as s:
        controllers = s.engine.controllers
        assert await controllers.attach(AttachRequest("L0", "user", path, "blk", wait_for_device=True)) == []
        target = Target({path: DiskSpec(1 << 20)})
        await target.start()
        await s.until(lambda: controllers.get("L0").state is State.UP)
        await controllers.detach("L0")
        await target.stop()
    assert len([r for r in caplog.records if r.exc_info]) == 1
    caplog.clear()


@in_loop
async def test_memory_that_can_not_be_shared_once_it_is_up_is_a_loss_and_no_failed_attach(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = VhostUserTransport._share
    times: list[int] = []

    async def share(transport: VhostUserTransport, client: Any, regions: list[Region]) -> None:
        times.append(1)
        if len(times) == 2:
            raise NotSupported("the back-end takes no more")
        await real(transport, client, regions)

    monkeypatch.setattr(VhostUserTransport, "_share", share)
    async with stack(run_dir, UNITS) as s:
        assert await s.attach() == ["S0t0"]
        controller = controller_of(s)
        await s.until(lambda: controller.reconnects)
        assert await s.do("S0t0", "read") == 0


@pytest.mark.parametrize("lost_before", [False, True])
@in_loop
async def test_memory_that_grew_is_used_only_when_a_device_that_can_not_learn_of_it_is_cut_off(
    run_dir: Path, lost_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller, memory = controller_of(s), s.engine.memory
        monkeypatch.setattr(VhostUserTransport, "memory_hot_add", property(lambda _: False))
        if lost_before:
            lose(controller)
        memory.allocate(memory.size)
        await s.engine.controllers.publish_memory()
        assert all(queue.stopped for queue in controller.all_queues)
        await s.until(lambda: controller.state is State.UP)
        assert await s.do("S0t0", "read") == 0


@in_loop
async def test_a_connection_whose_replies_can_not_be_read_for_an_unforeseen_reason_is_lost(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = wire.check_reply

    def broken(*_: object) -> bytes:
        monkeypatch.setattr(wire, "check_reply", real)
        raise ZeroDivisionError("nobody foresaw this")

    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = controller_of(s)
        monkeypatch.setattr(wire, "check_reply", broken)
        with pytest.raises(ProtocolError, match="replies: ZeroDivisionError: nobody foresaw this"):
            await controller.transport.stop_queue(0)
        await s.until(lambda: controller.reconnects == 1)
    assert any(r.exc_info for r in caplog.records)
    caplog.clear()


# ---- found at once


@pytest.fixture
def only_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not heard of is not found within a test."""
    monkeypatch.setattr(attempts, "BACKOFF_S", (3600.0,))


async def lost_target(s: Stack, path: str, name: str = "D0") -> Controller[Any]:
    """A controller whose target has ended, socket and all."""
    target = Target({path: DiskSpec(1 << 20)})
    await target.start()
    await s.engine.controllers.attach(AttachRequest(name, "user", path, "blk"))
    controller = s.engine.controllers.get(name)
    await target.stop()
    await s.until(lambda: controller.state is State.RECONNECTING)
    return controller


@in_loop
async def test_a_target_that_is_back_is_found_at_once_however_often_it_dies(run_dir: Path, only_events: None) -> None:
    path = str(run_dir / "d.sock")
    async with stack(run_dir, UNITS) as s:
        controller = await lost_target(s, path)
        for times in range(1, 6):
            target = Target({path: DiskSpec(1 << 20)})
            await target.start()
            await s.until(lambda: controller.state is State.UP)
            assert controller.reconnects == times
            await asyncio.sleep(BRIEF_S)
            await target.stop()
            await s.until(lambda: controller.state is State.RECONNECTING)


@pytest.mark.waits
@in_loop
async def test_each_reason_why_a_device_is_not_back_is_told_however_fast_they_follow(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = [f"reason {number}" for number in range(3)]
    left = [*reasons, *reasons]
    real = VhostUserTransport.connect

    async def refused(transport: VhostUserTransport, seconds: float) -> None:
        if left:
            raise ProtocolError(left.pop(0))
        await real(transport, seconds)

    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = controller_of(s)
        monkeypatch.setattr(VhostUserTransport, "connect", refused)
        with caplog.at_level(logging.WARNING):
            lose(controller)
            await s.until(lambda: controller.reconnects == 1)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and ": reason " in r.getMessage()]
    assert told[:3] == [f"controller S0: {reason}" for reason in reasons]


@in_loop
async def test_a_target_that_listens_later_than_its_socket_is_there_is_found(run_dir: Path, only_events: None) -> None:
    path = str(run_dir / "d.sock")
    async with stack(run_dir, UNITS) as s:
        controller = await lost_target(s, path)
        with socket.socket(socket.AF_UNIX) as early:
            early.bind(path)
            await s.until(lambda: "Connection refused" in controller.last_error)
            await asyncio.sleep(0.2)
            early.setblocking(False)
            early.listen()
            accepted, _ = await asyncio.get_running_loop().sock_accept(early)
            accepted.close()


@in_loop
async def test_a_target_whose_folder_comes_later_is_found(run_dir: Path, only_events: None) -> None:
    folder = run_dir / "run" / "target"
    path = str(folder / "d.sock")
    folder.mkdir(parents=True)
    async with stack(run_dir, UNITS) as s:
        controller = await lost_target(s, path)
        shutil.rmtree(run_dir / "run")
        waited = AttachRequest("L0", "user", str(folder / "l.sock"), "scsi", wait_for_device=True)
        assert await s.engine.controllers.attach(waited) == []
        await asyncio.sleep(0.05)
        folder.mkdir(parents=True)
        target = Target({path: DiskSpec(1 << 20)})
        await target.start()
        await s.until(lambda: controller.state is State.UP)
        await s.engine.controllers.detach("L0")
        await s.engine.controllers.detach("D0")
        await target.stop()


@in_loop
async def test_without_inotify_it_is_looked_for_from_time_to_time_which_is_said_once(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(libc, "inotify_add_watch", full)
    monkeypatch.setattr(arrivals, "_said", LogRate(arrivals.log, interval_s=float("inf")))
    paths = [str(run_dir / f"{n}.sock") for n in range(3)]
    async with stack(run_dir, UNITS) as s:
        lost = [await lost_target(s, path, f"D{n}") for n, path in enumerate(paths)]
        target = Target({path: DiskSpec(1 << 20) for path in paths})
        await target.start()
        await s.until(lambda: all(one.state is State.UP for one in lost))
        for one in lost:
            await s.engine.controllers.detach(one.name)
        await target.stop()
    said = [r for r in caplog.records if "see fs.inotify" in r.getMessage() and r.levelno == logging.WARNING]
    assert len(said) == 1
