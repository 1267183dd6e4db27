"""A device that is taken out: its controller ends by itself, and nobody waits for it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import FakeHost, Stack, stack
from tests.support.fake_scsi_units import FakeUnit
from tests.support.rig import in_loop
from tests.support.waiting import soon
from virtiod.controllers import AttachRequest
from virtiod.controllers.controller import State
from virtiod.core.errors import LostError, NotFound, RemovedError, VirtiodError

UNITS = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
WHY = "0000:00:05.0 was removed"


def silence(host: FakeHost) -> None:
    host.hook = lambda _: host.SILENCE


async def in_flight(s: Stack) -> asyncio.Future[int]:
    """An I/O that will not be answered."""
    silence(s.host)
    answered = s.host.commands
    io = asyncio.ensure_future(s.do("S0t0", "read", 0, 4096))
    await s.until(lambda: s.host.commands > answered)
    return io


@in_loop
async def test_io_ends_with_enodev_and_the_bdevs_are_unregistered(run_dir: Path) -> None:
    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        states: list[str] = []
        controller.on_state = lambda c: states.append(c.state)
        io = await in_flight(s)
        assert controller.transport.on_lost is not None
        controller.transport.on_lost(RemovedError(WHY))
        assert await soon(io) == -errno.ENODEV
        await s.until(lambda: not s.engine.controllers.list())
        assert s.engine.bdevs.list() == []
        assert sorted(s.events[2:]) == [("bdev_unregister", "S0t0"), ("bdev_unregister", "S0t1")]
        assert states == [State.DETACHING, State.GONE]
        assert controller.last_error == WHY


@pytest.mark.parametrize("kind", [RemovedError, NotFound])
@in_loop
async def test_a_device_that_is_not_there_to_come_back_ends_its_controller(
    run_dir: Path, kind: type[VirtiodError]
) -> None:
    async def connect(timeout: float) -> None:
        raise kind(WHY)

    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        io = await in_flight(s)
        controller.transport.connect = connect  # type: ignore[method-assign]
        assert controller.transport.on_lost is not None
        controller.transport.on_lost(LostError("it does not answer"))
        assert await soon(io) == -errno.ENODEV
        await s.until(lambda: not s.engine.controllers.list())


@in_loop
async def test_a_removal_while_attaching_fails_the_attach(run_dir: Path) -> None:
    async with stack(run_dir, UNITS) as s:
        silence(s.host)
        attaching = asyncio.ensure_future(s.attach())
        await s.until(lambda: s.host.commands)
        transport = s.engine.controllers.get("S0").transport
        assert transport.on_lost is not None
        transport.on_lost(RemovedError(WHY))
        with pytest.raises(RemovedError):
            await attaching
        assert s.engine.controllers.list() == []


@in_loop
async def test_a_pci_device_that_is_absent_is_an_error_or_waited_for(run_dir: Path) -> None:
    async with stack(run_dir, UNITS) as s:
        nowhere = AttachRequest("P0", "pci", "0000:ff:1f.7", "blk")
        with pytest.raises(NotFound, match="there is no such PCI device"):
            await s.engine.controllers.attach(nowhere)
        assert await s.engine.controllers.attach(replace(nowhere, wait_for_device=True)) == []
        assert s.engine.controllers.get("P0").state is State.ATTACHING
        await s.engine.controllers.detach("P0")
        assert s.engine.controllers.list() == []


@pytest.mark.parametrize("detach", [False, True])
@in_loop
async def test_the_device_is_released_once_at_the_end_and_not_when_it_is_lost(run_dir: Path, detach: bool) -> None:
    released: list[State] = []
    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")

        async def release() -> None:
            released.append(controller.state)

        controller.transport.release = release  # type: ignore[method-assign]
        assert controller.transport.on_lost is not None
        controller.transport.on_lost(LostError("gone for a while"))
        await s.until(lambda: controller.reconnects)
        assert released == []
        if detach:
            await s.engine.controllers.detach("S0")
    assert released == [State.DETACHING]


@in_loop
async def test_an_end_of_the_daemon_waits_for_the_end_of_a_removed_controller(run_dir: Path) -> None:
    ended: list[str] = []
    async with stack(run_dir, UNITS) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        cut_off: Callable[..., object] = controller._end

        async def slow_end() -> None:
            await asyncio.sleep(0.1)
            await cut_off()  # type: ignore[misc]
            ended.append("S0")

        controller._end = slow_end  # type: ignore[method-assign]
        assert controller.transport.on_lost is not None
        controller.transport.on_lost(RemovedError(WHY))
    assert ended == ["S0"]
