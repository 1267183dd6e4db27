"""The driver's ring against the target's, each on pollers of its own: what is written is read back."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.support.rig import ALL, in_loop
from tests.support.rings import Ring, each_ring
from tests.support.waiting import PATIENCE_S, soon, until
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.limits import RequestLimits
from virtiod.bdev.probe import Probe
from virtiod.controllers.blk.queue import BlkQueue
from virtiod.core.memory import MIB, DmaMemory
from virtiod.load.job import LoadJob
from virtiod.load.workload import JobSpec, Workload
from virtiod.poller.poller import Control, Poller
from virtiod.target.blk.requests import BlkRing, TargetUnit
from virtiod.target.disk import TargetDisk
from virtiod.target.interface import QueueSetup
from virtiod.target.ring import TargetMemory
from virtiod.virtio.features import Feature
from virtiod.virtqueue.routes import Routes
from virtiod.virtqueue.spec import RingSpec

BOTH = [True, False]
IOS = 5000  # of a verifying load


@dataclass
class System:
    """A bdev over queues to a target in this process."""

    memory: DmaMemory
    pollers: list[Poller]
    bdev: Bdev
    queues: list[BlkQueue]
    unit: TargetUnit
    event_idx: bool
    target: Poller
    fds: list[int] = field(default_factory=list)
    served: dict[int, BlkRing] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)

    async def start(self, i: int) -> None:
        """The target serves queue i from its beginning."""
        q = self.queues[i]
        q.reset()
        kick, call = self.fds[2 * i : 2 * i + 2]
        regions = TargetMemory([(r.address, r.size, r.address) for r in self.memory.regions])
        rings = q.ring_addresses()
        features = self.event_idx << Feature.EVENT_IDX
        setup = QueueSetup(q.size, *rings, 0, kick, call, -1, features)
        tq = BlkRing(self.target, regions, setup, self.unit)
        await tq.start()
        await q.start(kick, call, lambda: self.broken.append(i))
        self.served[i] = tq

    async def cut(self, i: int) -> None:
        await self.queues[i].stop()
        await self.served.pop(i).stop()

    def job(self, poller: Poller, rw: str, depth: int, part: int = 0, parts: int = 1) -> LoadJob:
        spec = JobSpec(Workload(rw, queue_depth=depth), self.bdev.size, seed=7, part=part, parts=parts)
        return LoadJob(self.memory, poller, self.bdev.channels, spec)

    async def verify(self, depth: int, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        """A verifying load from every poller, until each did IOS, and meanwhile() once they have begun."""
        jobs = [self.job(p, "verify", depth, i, len(self.pollers)) for i, p in enumerate(self.pollers)]
        running = asyncio.gather(*(j.run() for j in jobs))
        await until(lambda: all(j.progress().ios > depth for j in jobs))
        if meanwhile is not None:
            await meanwhile()
        await until(lambda: all(j.progress().ios >= IOS for j in jobs))
        for j in jobs:
            j.stop()
        await soon(running)
        counters = [j.counters() for j in jobs]
        for j in jobs:
            j.close(lambda _, at: self.memory.free(at))
        assert all(c.mismatches == 0 and c.io.failed == 0 for c in counters)

    def assert_balanced(self) -> None:
        stats = self.bdev.stats()
        assert stats.in_flight == 0
        assert all(s.submitted == s.completed + s.failed for s in stats.ops.values())
        assert all(q.counters().submitted == q.counters().completed for q in self.queues)
        assert all(q.counters().in_flight == 0 for q in self.queues)


@asynccontextmanager
async def system(
    pollers: int = 1,
    queues: int = 1,
    size: int = 64,
    indirect: bool = True,
    event_idx: bool = True,
    serial: str = "",
    read_only: bool = False,
) -> AsyncIterator[System]:
    control = Control()
    control.attach(asyncio.get_running_loop())
    memory = DmaMemory(64 * MIB)
    threads = [Poller(control, i, -1, poll_us=20) for i in range(pollers + 1)]
    *own, target = threads
    capacity = 16 * MIB
    unit = TargetUnit(TargetDisk(capacity, memory.allocate(capacity), -1, read_only), serial)
    channels = BdevChannels(own)
    channels.limit(set(ALL), RequestLimits(2, *[1 << 20] * 4))
    rings = [
        BlkQueue(memory, own[i % pollers], RingSpec(i, size, indirect, event_idx, 2, f"q{i}")) for i in range(queues)
    ]
    routes = Routes(channels, list(rings))
    bdev = Bdev("B0", BdevInfo(512, capacity >> 9), channels)
    s = System(memory, own, bdev, rings, unit, event_idx, target)
    s.fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2 * queues)]
    for p in threads:
        p.start()
    try:
        for i in range(queues):
            await s.start(i)
        yield s
        for i in list(s.served):
            await s.cut(i)
        for q in rings:
            await q.fail(errno.ENODEV)
        await asyncio.gather(*(p.ping() for p in own))
        s.assert_balanced()
    finally:
        for p in threads:
            p.stop()
        control.detach()
        for fd in s.fds:
            os.close(fd)
        memory.close()
        del routes


@pytest.mark.parametrize("event_idx", BOTH)
@pytest.mark.parametrize("indirect", BOTH)
@pytest.mark.parametrize("size", [4, 8, 256])
@in_loop
async def test_a_verifying_load_finds_what_it_wrote(size: int, indirect: bool, event_idx: bool) -> None:
    async with system(size=size, indirect=indirect, event_idx=event_idx) as s:
        await s.verify(32)
        assert s.broken == []


@in_loop
async def test_indexes_wrap_under_load() -> None:
    async with system(size=8) as s:
        job = s.job(s.pollers[0], "randread", 32)
        running = asyncio.ensure_future(job.run())
        await until(lambda: s.queues[0].counters().completed >= 140_000, seconds=4 * PATIENCE_S)
        job.stop()
        await soon(running)
        job.close(lambda _, at: s.memory.free(at))
        await s.verify(16)


@pytest.mark.parametrize(("pollers", "queues"), [(2, 1), (1, 3), (2, 2), (3, 2), (2, 3)])
@in_loop
async def test_any_number_of_pollers_works_with_any_number_of_queues(pollers: int, queues: int) -> None:
    async with system(pollers, queues, size=16) as s:
        await s.verify(16)
        assert all(q.counters().completed for q in s.queues)
        assert [len(s.bdev.channel_stats()), len(s.pollers)] == [pollers, pollers]
        assert all(stats.ops["read"].completed for _, stats in s.bdev.channel_stats())


@in_loop
async def test_get_id_tells_the_serial_of_the_target() -> None:
    async with system(serial="virtiod-0001") as s:
        assert await soon(s.queues[0].get_id()) == "virtiod-0001"


@in_loop
async def test_a_null_disk_reads_zeroes_not_what_the_buffer_holds() -> None:
    async with system() as s:
        null = TargetDisk(16 * MIB)
        await s.cut(0)
        s.unit = TargetUnit(null)
        await s.start(0)
        probe = Probe(s.memory, s.pollers[0], s.bdev.channels)
        probe.buffer[:8192] = b"secret!!" * 1024
        assert await soon(probe.submit("read", 0, 4096, segments=[4095, 1])) == 0
        assert probe.buffer[:8192] == bytes(4096) + b"secret!!" * 512


@in_loop
async def test_io_to_a_read_only_disk_fails() -> None:
    async with system(read_only=True) as s:
        probe = Probe(s.memory, s.pollers[0], s.bdev.channels)
        write = probe.submit("write", 0, 4096)
        read = probe.submit("read", 0, 4096)
        assert await soon(write) == -errno.EIO
        assert await soon(read) == 0


def has_served(s: System, requests: int) -> bool:
    return s.queues[0].counters().completed >= requests


@each_ring
@in_loop
async def test_a_target_that_comes_and_goes_loses_nothing(ring: Ring) -> None:
    async with system(ring.pollers, size=16, indirect=ring.indirect, event_idx=ring.event_idx) as s:

        async def come_and_go() -> None:
            for _ in range(10):
                before = s.queues[0].counters().completed
                await until(partial(has_served, s, before + 50))
                await soon(s.cut(0))
                await soon(s.start(0))

        await s.verify(24, come_and_go)
        assert s.broken == []


@pytest.mark.parametrize("fault", ["used-id", "used-index"])
@pytest.mark.parametrize("depth", [1, 24])
@each_ring
@in_loop
async def test_a_target_that_breaks_the_ring_is_told_once_and_replaced(fault: str, depth: int, ring: Ring) -> None:
    async with system(ring.pollers, size=16, indirect=ring.indirect, event_idx=ring.event_idx) as s:
        s.unit.fault(fault, 50)
        job = s.job(s.pollers[-1], "verify", depth)
        running = asyncio.ensure_future(job.run())
        await until(lambda: s.broken)
        s.unit.fault("")
        await s.cut(0)
        await s.start(0)
        enough = job.progress().ios + 100
        await until(lambda: job.progress().ios > enough)
        job.stop()
        await soon(running)
        assert (job.counters().io.failed, job.counters().mismatches) == (0, 0)
        job.close(lambda _, at: s.memory.free(at))
        assert s.broken == [0]


@pytest.mark.parametrize(("fault", "result"), [("error", -errno.EIO), ("no-status", -errno.EIO)])
@each_ring
@in_loop
async def test_a_target_that_fails_some_requests_fails_just_those(fault: str, result: int, ring: Ring) -> None:
    async with system(ring.pollers, indirect=ring.indirect, event_idx=ring.event_idx) as s:
        s.unit.fault(fault, 2, 3)  # the 5th, the 8th ...
        probe = Probe(s.memory, s.pollers[-1], s.bdev.channels)
        results = [await soon(probe.submit("read", 0, 512)) for _ in range(9)]
        assert results == [0, 0, 0, 0, result, 0, 0, result, 0]


@pytest.mark.parametrize("indirect", BOTH)
@in_loop
async def test_the_end_with_io_in_flight_at_a_silent_target_fails_it_all(indirect: bool) -> None:
    async with system(pollers=2, size=16, indirect=indirect) as s:
        s.unit.fault("silence")
        probes = [Probe(s.memory, p, s.bdev.channels) for p in s.pollers]
        done = [probe.submit("read", 512 * i, 512) for probe in probes for i in range(40)]
        await until(lambda: s.bdev.channels.in_flight() == 80)
        s.bdev.channels.close()
        await s.cut(0)
        assert await s.queues[0].fail(errno.ENODEV) == Ring(indirect).at_once(16)
        results = await soon(asyncio.gather(*done))
        assert results == [-errno.ENODEV] * 80


@in_loop
async def test_held_back_answers_come_late_and_all() -> None:
    async with system(size=16) as s:
        s.unit.fault("", delay_us=2000)
        probe = Probe(s.memory, s.pollers[0], s.bdev.channels)
        done = [probe.submit("read", 512 * i, 512) for i in range(40)]
        assert await soon(asyncio.gather(*done)) == [0] * 40
        stats = s.bdev.stats().ops["read"]
        assert stats.min_ns >= 1_500_000
