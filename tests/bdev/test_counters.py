"""What channels count, and its sums: exact, on whichever poller the I/O was done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.rig import Rig, in_loop
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import OPS, BdevChannels
from virtiod.bdev.counters import ERRORS, NOTHING, ended_ios
from virtiod.bdev.histogram import BUCKETS, cut
from virtiod.bdev.null_io import connect_null
from virtiod.bdev.probe import Probe, run_rounds
from virtiod.core.memory import MIB, DmaMemory
from virtiod.poller.poller import Control, Poller

BLOCKS = 64


class Setup:
    """A bdev over nothing, with two pollers that run on this thread."""

    def __init__(self) -> None:
        self.control = Control()
        self.memory = DmaMemory(MIB)
        self.pollers = [Poller(self.control, number, -1) for number in range(2)]
        channels = BdevChannels(self.pollers)
        connect_null(channels)
        self.bdev = Bdev("B0", BdevInfo(512, BLOCKS, io_types=frozenset(OPS) - {"unmap"}), channels)
        self.probes = [Probe(self.memory, poller, channels, 4096) for poller in self.pollers]

    def submit(self, poller: int, op: str, length: int = 512, offset: int = 0) -> asyncio.Future[int]:
        return self.probes[poller].submit(op, offset, length)

    def finish(self) -> None:
        for poller in self.pollers:
            run_rounds(poller, 3)
        self.control.drain()


@asynccontextmanager
async def setup() -> AsyncIterator[Setup]:
    s = Setup()
    try:
        yield s
        assert s.bdev.stats().in_flight == 0
    finally:
        for probe in s.probes:
            probe.close()
        s.memory.close()


@in_loop
async def test_each_channel_counts_its_own_and_the_sums_are_those_of_the_bdev() -> None:
    async with setup() as s:
        for _ in range(3):
            s.submit(0, "read", 1024)
        for _ in range(2):
            s.submit(1, "read")
        s.submit(1, "write", 2048)
        s.finish()
        total = s.bdev.stats([])
        (_, a), (_, b) = s.bdev.channel_stats([])
        assert [each.ops["read"].completed for each in (a, b, total)] == [3, 2, 5]
        assert [each.ops["read"].bytes for each in (a, b, total)] == [3072, 1024, 4096]
        assert [each.ops["write"].submitted for each in (a, b, total)] == [0, 1, 1]
        for op in OPS:
            one, two, both = a.ops[op], b.ops[op], total.ops[op]
            assert both.time_ns == one.time_ns + two.time_ns
            assert both.below == [both.submitted] == [one.below[0] + two.below[0]]
            assert both.max_ns == max(one.max_ns, two.max_ns)
            assert both.min_ns == min((each.min_ns for each in (one, two) if each.submitted), default=0)
        assert total.weighted_ns == sum(op.time_ns for op in total.ops.values())
        assert total.busy_ns == max(a.busy_ns, b.busy_ns)
        assert ended_ios(s.bdev.channels) == 6


@in_loop
async def test_failures_are_counted_by_operation_and_status() -> None:
    async with setup() as s:
        for poller in (0, 1):
            s.submit(poller, "read", offset=BLOCKS * 512)
        s.submit(1, "read", length=100)
        s.submit(0, "unmap")
        s.submit(0, "write")
        s.finish()
        stats = s.bdev.stats()
        assert stats.ops["read"].failures == {"nospace": 2, "invalid": 1}
        assert stats.ops["read"].errors == [2 if e == "nospace" else int(e == "invalid") for e in ERRORS]
        assert (stats.ops["read"].failed, stats.ops["read"].bytes) == (3, 0)
        assert stats.failures == {"nospace": 2, "invalid": 1, "unsupported": 1}
        assert (stats.ops["write"].completed, stats.ops["write"].failures) == (1, {})


@in_loop
async def test_latencies_of_what_succeeded_are_told_from_those_of_all_that_ended() -> None:
    async with setup() as s:
        s.submit(0, "read")
        s.finish()
        done = s.bdev.stats().ops["read"]
        s.submit(0, "read")
        s.submit(1, "read", offset=BLOCKS * 512)
        await asyncio.sleep(0.02)
        s.finish()
        read = s.bdev.stats([]).ops["read"]
        (_, good), (_, bad) = s.bdev.channel_stats([])
        assert (read.completed, read.failed, read.below) == (2, 1, [3])
        assert (bad.ops["read"].completed_ns, bad.ops["read"].completed_max_ns) == (0, 0)
        assert read.time_ns == read.completed_ns + bad.ops["read"].time_ns
        assert (read.completed_ns, read.completed_min_ns, read.completed_max_ns) == (
            good.ops["read"].time_ns,
            good.ops["read"].min_ns,
            good.ops["read"].max_ns,
        )
        assert read.completed_min_ns <= done.max_ns


@in_loop
async def test_latencies_are_counted_in_all_buckets_or_below_cuts() -> None:
    async with setup() as s:
        for poller in (0, 0, 1):
            s.submit(poller, "read")
            await asyncio.sleep(0.001)
        s.submit(1, "write")
        s.finish()
        reads, both = s.bdev.latencies(["read"]), s.bdev.latencies(["read", "write"])
        assert (len(reads), sum(reads), sum(both)) == (BUCKETS, 3, 4)
        cuts = [cut(ns) for ns in (1000, 1_000_000, 10**9)]
        assert s.bdev.stats(cuts).ops["read"].below == [*(sum(reads[:c]) for c in cuts), 3]
        assert s.bdev.stats(cuts).ops["flush"].below == [0] * 4
        assert s.bdev.stats([BUCKETS + 1]).ops["read"].below == [3, 3]
        assert s.bdev.stats().ops["read"].below == []


@in_loop
async def test_what_is_in_flight_has_an_age_and_counts_as_time_in_use() -> None:
    async with Rig() as rig:
        assert rig.bdev.stats() == NOTHING
        rig.submit("read", 0, 512)
        rig.turn()
        await asyncio.sleep(0.001)
        total = rig.bdev.stats()
        ((_, channel),) = rig.bdev.channel_stats()
        assert total.in_flight == channel.in_flight == 1
        assert 1_000_000 <= total.oldest_ns <= channel.oldest_ns
        assert 1_000_000 <= total.busy_ns <= channel.busy_ns
        assert total.weighted_ns == 0
        rig.settle()
        stats = rig.bdev.stats()
        assert (stats.in_flight, stats.oldest_ns) == (0, 0)
        assert stats.weighted_ns == stats.ops["read"].time_ns >= 1_000_000
        assert stats.busy_ns >= total.busy_ns  # it was told, and never goes back


@in_loop
async def test_extremes_can_be_forgotten_and_nothing_else_is() -> None:
    async with Rig() as rig:
        rig.submit("read", 0, 512)
        rig.turn()
        await asyncio.sleep(0.001)
        rig.settle()
        read = rig.bdev.stats().ops["read"]
        assert read.min_ns == read.max_ns >= 1_000_000
        rig.bdev.reset_extremes()
        assert rig.bdev.stats().ops["read"] == read._replace(min_ns=0, max_ns=0, completed_min_ns=0, completed_max_ns=0)
