"""A device that can't interrupt, and is told of requests by a register."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.fake_device import FakeDevice
from tests.support.rig import ALL, NO_LIMIT, in_loop
from tests.support.waiting import soon, until
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.limits import RequestLimits
from virtiod.bdev.probe import Probe
from virtiod.controllers.blk.queue import BlkQueue
from virtiod.core.memory import MIB, DmaMemory
from virtiod.poller.poller import Control, Poller
from virtiod.virtqueue.routes import Routes
from virtiod.virtqueue.spec import RingSpec

INDEX = 3
NEVER = 0xFFFF


class Quiet:
    """A queue on a poller with a thread, and the device's side of it."""

    def __init__(self, event_idx: bool) -> None:
        self.control = Control()
        self.memory = DmaMemory(16 * MIB)
        self.poller = Poller(self.control, 0, -1, "adaptive", 0)
        self.queue = BlkQueue(self.memory, self.poller, RingSpec(INDEX, 8, True, event_idx, 6))
        self.channels = BdevChannels([self.poller])
        self.channels.limit(set(ALL), RequestLimits(6, NO_LIMIT, MIB, MIB, MIB))
        self.routes = Routes(self.channels, [self.queue])
        self.bdev = Bdev("B0", BdevInfo(num_blocks=2048, block_size=512), self.channels)
        self.probe = Probe(self.memory, self.poller, self.channels)
        self.device = FakeDevice(self.memory, self.queue, event_idx)
        self.register = self.memory.allocate(64)
        self.doorbell = self.memory.view(self.register, 2).cast("H")
        self.doorbell[0] = NEVER

    def sleeps(self) -> int:
        return self.poller.stats().sleeps

    async def sleep_again(self, times: int) -> None:
        """Until the poller has slept so many times more."""
        enough = self.sleeps() + times
        await until(lambda: self.sleeps() > enough)


@asynccontextmanager
async def running(event_idx: bool) -> AsyncIterator[Quiet]:
    quiet = Quiet(event_idx)
    quiet.control.attach(asyncio.get_running_loop())
    quiet.poller.start()
    quiet.queue.reset()
    await quiet.queue.start(-1, -1, lambda: None, kick_address=quiet.register)
    yield quiet
    await quiet.queue.stop()
    quiet.poller.stop()
    quiet.control.detach()
    quiet.queue.close()
    quiet.device.close()
    quiet.probe.close()
    quiet.memory.close()


@pytest.mark.parametrize("event_idx", [True, False])
@in_loop
async def test_its_answer_is_seen_by_a_poller_that_slept(event_idx: bool) -> None:
    async with running(event_idx) as quiet:
        for _ in range(3):
            status = quiet.probe.submit("read", 0, 4096)
            await until(lambda: quiet.doorbell[0] == INDEX)
            await quiet.sleep_again(8)
            assert not status.done()
            quiet.doorbell[0] = NEVER
            assert quiet.device.serve() == 1
            quiet.device.want_kicks(True)
            assert await soon(status) == 0
        assert quiet.queue.counters().kicks == 3


@in_loop
async def test_it_is_never_asked_for_an_interrupt() -> None:
    async with running(event_idx=False) as quiet:
        status = quiet.probe.submit("read", 0, 4096)
        await quiet.sleep_again(8)
        assert quiet.device.avail_flags() == 1
        quiet.device.serve()
        assert await soon(status) == 0


@in_loop
async def test_a_poller_with_nothing_in_flight_sleeps_long() -> None:
    async with running(event_idx=True) as quiet:
        status = quiet.probe.submit("read", 0, 4096)
        await until(quiet.device.serve)
        assert await soon(status) == 0
        await until(lambda: quiet.poller.stats().in_flight == 0)
        before, started = quiet.sleeps(), time.monotonic()
        await asyncio.sleep(0.3)
        assert (quiet.sleeps() - before) / (time.monotonic() - started) < 30  # a second
