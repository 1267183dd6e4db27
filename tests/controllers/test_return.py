"""A controller that lost its device comes back, whatever goes wrong on the way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_scsi_host import Stack, stack
from tests.support.fake_scsi_units import FakeUnit
from tests.support.rig import in_loop
from virtiod.controllers.controller import Controller, State
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import LostError, NotSupported, ProtocolError
from virtiod.core.memory import Region
from virtiod.target.blk.device import DiskSpec
from virtiod.target.target import Target
from virtiod.transports.vhost_user import wire
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
