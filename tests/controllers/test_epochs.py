"""What the device of an old session may still use, nobody else gets; what it was given is not repeated too early."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rest import lent
from tests.support.rig import in_loop
from tests.support.vhost_user import ALL_PROTOCOL, FEATURES, ScriptedBackend
from tests.support.waiting import soon, until
from virtiod.bdev.probe import Probe
from virtiod.controllers.blk.controller import BlkController
from virtiod.controllers.controller import State
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import LostError
from virtiod.system import System
from virtiod.transports.epoch import Epoch
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.wire import ProtocolFeature, Request
from virtiod.virtqueue.handle import ZEROES

pytestmark = pytest.mark.waits  # for a device that is silent

MIB = 1 << 20
HOUR_S = 3600.0
CONFIG = struct.pack("<QIIHBBIBBHIBxHIIIIIB3x", 2048, 0, 126, 0, 0, 0, 512, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0)[:60]


class Silent:
    """A system with a controller V0, whose device answers messages and no I/O."""

    def __init__(self, system: System, device: ScriptedBackend, path: Path) -> None:
        self.system = system
        self.device = device
        self.path = path
        self.probe: Probe

    async def attach(self) -> None:
        await self.system.controllers.attach(AttachRequest("V0", "user", str(self.path), "blk"))
        bdev = self.system.bdevs.get("V0")
        self.probe = Probe(self.system.memory, self.system.pollers[0], bdev.channels, 4096)

    @property
    def controller(self) -> BlkController:
        controller = self.system.controllers.get("V0")
        assert isinstance(controller, BlkController)
        return controller

    @property
    def rings(self) -> list[int]:
        return [queue.ring_addresses()[0] for queue in self.controller.all_queues]

    def epochs(self) -> list[Epoch]:
        return self.system.controllers.quarantine.epochs("V0")

    async def write(self) -> asyncio.Future[int]:
        """A write that the device was given."""
        before = self.in_flight()
        writing = self.probe.submit("write", 0, 512)
        await until(lambda: self.in_flight() > before)
        return writing

    def in_flight(self) -> int:
        return sum(queue.in_flight for queue in self.controller.queues)

    async def up_again(self, times: int = 1) -> None:
        await until(lambda: self.controller.reconnects == times and self.controller.state is State.UP)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each session would begin with a wait for the serial."""
    monkeypatch.setattr("virtiod.controllers.blk.controller.ID_DEADLINE_S", 0.05)


@contextlib.asynccontextmanager
async def silent(
    run_dir: Path, *, protocol: int = ALL_PROTOCOL, io_timeout_s: float = 30.0, grace_s: float = 0.05
) -> AsyncIterator[Silent]:
    path = run_dir / "silent.sock"
    device = ScriptedBackend(config=CONFIG, protocol=protocol, features=FEATURES | wire.F_PROTOCOL_FEATURES)
    async with device.at(str(path)):
        system = System([-1], memory_mib=64, io_timeout_s=io_timeout_s, peer_grace_s=grace_s)
        system.start()
        try:
            stand = Silent(system, device, path)
            await stand.attach()
            yield stand
            await system.controllers.stop()
            assert not lent(system)
        finally:
            await system.stop()


def mute(request: Request, device: ScriptedBackend) -> None:
    """Have it answer that request no more."""
    device.script[request] = lambda _: None


@in_loop
async def test_a_device_that_can_not_take_grown_memory_is_stopped_before_it_is_left(run_dir: Path) -> None:
    async with silent(run_dir, protocol=ALL_PROTOCOL & ~(1 << ProtocolFeature.CONFIGURE_MEM_SLOTS)) as s:
        writing = await s.write()
        known, rings = len(s.device.requests), s.rings
        s.system.memory.allocate(100 * MIB)
        await s.up_again()
        later = s.device.requests[known:]
        assert Request.GET_VRING_BASE in later[: later.index(Request.SET_OWNER)]
        assert s.rings == rings  # it has stopped: they are used again
        assert not s.epochs()
        await until(lambda: s.in_flight() == 2)  # the write, and GET_ID
        assert not writing.done()


@in_loop
async def test_a_device_that_does_not_stop_keeps_its_rings_and_the_io_that_it_had_is_not_repeated(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with silent(run_dir, io_timeout_s=1) as s:
        mute(Request.GET_VRING_BASE, s.device)
        writing, rings = await s.write(), s.rings
        assert await soon(writing) == -errno.ETIMEDOUT
        await s.up_again()
        assert not {*rings} & {*s.rings}
        (epoch,) = s.epochs()
        assert "its process can't be seen" in epoch.reason
        assert s.system.controllers.quarantine.kept()["V0"].memory >= s.controller.request_queues[0].size * 16
        assert s.in_flight() == 1  # GET_ID, asked again
        assert s.system.memory.size_of(rings[0])  # nobody else gets it
        assert "what the device had is in quarantine" in caplog.text
        used = s.system.memory.used
        epoch.die("the test says so")
        await until(lambda: not s.epochs())
        assert s.system.memory.used < used
        with pytest.raises(KeyError):
            s.system.memory.size_of(rings[0])


@in_loop
async def test_what_was_in_flight_is_repeated_when_the_old_session_is_over_and_not_before(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with silent(run_dir, io_timeout_s=0, grace_s=HOUR_S) as s:
        writing = await s.write()
        s.device.hang_up()
        await until(lambda: s.controller.waits_for)
        assert s.controller.state is State.RECONNECTING
        assert s.device.connections == 1
        assert "it connects again when the old device is gone" in caplog.text
        (epoch,) = s.epochs()
        assert s.controller.waits_for == epoch.reason
        epoch.die("the test says so")
        await s.up_again()
        assert s.controller.waits_for == ""
        await until(lambda: s.in_flight() == 2)
        assert not writing.done()
        await until(lambda: not s.epochs())


@in_loop
async def test_nothing_in_flight_is_nothing_to_wait_for(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0, grace_s=HOUR_S) as s:
        rings = s.rings
        s.device.hang_up()
        await s.up_again()
        assert not {*rings} & {*s.rings}
        assert len(s.epochs()) == 1


@in_loop
async def test_many_old_sessions_are_waited_for_as_long_as_io_may_wait_and_too_many_longer(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtiod.controllers.ending.MAX_OLD_EPOCHS", 1)
    monkeypatch.setattr("virtiod.controllers.ending.LAST_OLD_EPOCHS", 2)
    async with silent(run_dir, io_timeout_s=1, grace_s=HOUR_S) as s:
        s.device.hang_up()
        await s.up_again()
        s.device.hang_up()
        await until(lambda: s.controller.waits_for)
        assert s.controller.waits_for.startswith("2 old sessions may still be alive; the last one: it closed")
        await s.up_again(2)
        s.device.hang_up()
        await until(lambda: "3 old sessions" in s.controller.waits_for)
        assert s.controller._away_too_long()
        await s.controller.supervise()
        assert s.controller.state is State.RECONNECTING
        s.epochs()[0].die("the test says so")
        await s.up_again(3)


@in_loop
async def test_a_device_that_stops_late_gives_back_what_it_had(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0) as s:
        writing, rings = await s.write(), s.rings
        s.device.pause()
        s.controller.transport._lost(LostError("the test says so"))  # type: ignore[attr-defined]
        await until(lambda: s.controller.waits_for)
        s.device.resume()
        await s.up_again()
        await until(lambda: not s.epochs())
        assert s.controller.waits_for == ""
        assert not {*rings} & {*s.rings}
        await until(lambda: s.in_flight() == 2)  # the write, and GET_ID
        assert not writing.done()


@in_loop
async def test_a_connection_that_the_peer_closed_counts_as_over_after_the_grace(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0) as s:
        writing = await s.write()
        s.device.hang_up()
        await s.up_again()
        await until(lambda: s.in_flight() == 2)
        await until(lambda: not s.epochs())
        assert not writing.done()


@in_loop
async def test_a_detached_device_that_does_not_stop_keeps_rings_until_its_session_is_over(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0) as s:
        mute(Request.GET_VRING_BASE, s.device)
        used = s.system.memory.used
        writing, rings = await s.write(), s.rings
        await s.system.controllers.detach("V0")
        assert await soon(writing) == -errno.ENODEV
        assert s.system.controllers.list() == []
        assert all(s.system.memory.size_of(ring) for ring in rings)
        (epoch,) = s.epochs()
        epoch.die("the test says so")
        await until(lambda: not s.epochs())
        assert s.system.memory.used < used


@in_loop
async def test_a_detach_ends_the_wait_for_an_old_session(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0, grace_s=HOUR_S) as s:
        writing = await s.write()
        s.device.hang_up()
        await until(lambda: s.controller.waits_for)
        await soon(s.system.controllers.detach("V0"))
        assert await soon(writing) == -errno.ENODEV
        assert s.system.controllers.quarantine.kept()["V0"].memory


@in_loop
async def test_zeroes_that_each_session_wrote_stay_after_a_detach_until_all_of_them_are_over(run_dir: Path) -> None:
    async with silent(run_dir, io_timeout_s=0, grace_s=HOUR_S) as s:
        quarantine = s.system.controllers.quarantine
        for times in (1, 2):
            s.device.hang_up()
            await s.up_again(times)
        zeroes = len(s.controller.all_queues) * ZEROES
        rings = quarantine.kept()["V0"].memory
        await s.system.controllers.detach("V0")  # it confirms that this session has stopped
        assert quarantine.kept()["V0"].memory >= rings + zeroes
        first, second = s.epochs()
        first.die("the test says so")
        await until(lambda: s.epochs() == [second])
        assert quarantine.kept()["V0"].memory >= zeroes
        used = s.system.memory.used
        second.die("the test says so")
        await until(lambda: not s.epochs())
        assert s.system.memory.used <= used - zeroes
