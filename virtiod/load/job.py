"""The load generator: keeps a number of I/Os in flight on one channel, and counts.

Runs on the channel's poller, driven by completions alone. A verifying I/O writes a pattern made of the seed, the place
and a generation, reads it back into a poisoned buffer and compares; each I/O has places of its own, so none meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import ETIMEDOUT
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.bdev import channel, counters, tally
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    CharPtr,
    CommandPtr,
    IoFlag,
    IoPtr,
    Op,
    OpStatsArray,
    OpStatsPtr,
    PollerPtr,
    U64Ptr,
)
from cython.cimports.virtiod.load.job import Load, LoadIo, LoadIoPtr, LoadPtr
from cython.cimports.virtiod.poller import rounds

from virtiod.core.ticks import NS_PER_S

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from virtiod.bdev.channel import BdevChannels
    from virtiod.bdev.counters import OpCounters
    from virtiod.core.memory import DmaMemory
    from virtiod.load.workload import JobSpec
    from virtiod.poller.poller import Poller

POISON = cython.declare(cython.int, 0xA5)
XORSHIFT = cython.declare(uint64_t, 0x2545F4914F6CDD1D)  # xorshift64*
MIX_SEED = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
MIX_PLACE = cython.declare(uint64_t, 0xC2B2AE3D27D4EB4F)
PART_SEED = 7919
SMALL_RANGE = cython.declare(uint64_t, 0xFFFFFFFF)


class LoadCounters(NamedTuple):
    """What jobs did so far. started_ns, ended_ns: from the start of the first to the end of the last (CLOCK_MONOTONIC).

    io: their I/Os. latencies: those by the bucket of their latency. mismatches: blocks read back that were not those
    written. first_error: -errno of the first I/O that failed, 0 for none.
    """

    started_ns: int
    ended_ns: int
    io: OpCounters
    latencies: list[int]
    mismatches: int
    first_error: int


class LoadProgress(NamedTuple):
    """What a job did so far, as far as it can be asked often. ios: that ended, those that failed too; time_ns: the sum
    of their latencies; bytes: of those that succeeded."""

    ios: int
    bytes: int
    time_ns: int
    failed: int


def _random(g: LoadPtr) -> uint64_t:
    x: uint64_t = g.random
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    g.random = x
    return x * XORSHIFT


def _pick(g: LoadPtr, i: LoadIoPtr) -> uint64_t:
    """The slot of the next I/O."""
    n: uint64_t = g.slots
    slot: uint64_t
    if g.verify:
        n = g.slots // g.stride  # this I/O's own: first + index + k * stride
    if g.is_random:
        slot = ((_random(g) >> 32) * n) >> 32 if n < SMALL_RANGE else _random(g) % n
    else:
        slot = g.sequence % n
        g.sequence += 1
    if g.verify:
        slot = slot * g.stride + g.first + i.index
    return slot


def _fill_pattern(g: LoadPtr, i: LoadIoPtr) -> None:
    k: uint64_t
    word: U64Ptr = cast(U64Ptr, i.buffer)
    base: uint64_t = (g.seed + i.generation) * MIX_SEED
    for k in range(g.io_size >> 3):
        word[k] = base ^ ((i.io.offset + 8 * k) * MIX_PLACE)


def _matches(g: LoadPtr, i: LoadIoPtr) -> cython.bint:
    k: uint64_t
    word: U64Ptr = cast(U64Ptr, i.buffer)
    base: uint64_t = (g.seed + i.generation) * MIX_SEED
    for k in range(g.io_size >> 3):
        if word[k] != base ^ ((i.io.offset + 8 * k) * MIX_PLACE):
            return False
    return True


def _start(g: LoadPtr, i: LoadIoPtr) -> None:
    """Start the next I/O on i."""
    io: IoPtr = address(i.io)
    g.left -= 1 if g.left != UINT64_MAX else 0
    g.in_flight += 1
    io.offset = _pick(g, i) * g.io_size
    io.length = g.io_size
    i.reading_back = 0
    if g.verify:
        io.op = Op.WRITE
        i.generation += 1
        _fill_pattern(g, i)
    elif g.reads == 100:
        io.op = Op.READ
    elif g.reads == 0:
        io.op = Op.WRITE
    else:
        io.op = Op.READ if (_random(g) >> 33) % 100 < g.reads else Op.WRITE
    _submit(g, i)


def _submit(g: LoadPtr, i: LoadIoPtr) -> None:
    g.stats.submitted += 1
    channel.submit(g.channel, address(i.io))


def _count(g: LoadPtr, i: LoadIoPtr) -> None:
    tally.count(address(g.stats), i.io.status, i.io.length, g.poller.now - i.io.submitted_ns)
    if i.io.status and not g.first_error:
        g.first_error = i.io.status


def _read_back(g: LoadPtr, i: LoadIoPtr) -> cython.bint:
    """Continues a verifying I/O after the step that it just did; true if its read was started."""
    if i.reading_back:
        if not i.io.status and not _matches(g, i):
            g.mismatches += 1
        return False
    if i.io.status:
        return False
    i.reading_back = 1
    memset(i.buffer, POISON, g.io_size)
    i.io.op = Op.READ
    _submit(g, i)
    return True


def _done(io: IoPtr) -> None:
    i: LoadIoPtr = cast(LoadIoPtr, io)
    g: LoadPtr = i.load
    c: CommandPtr
    _count(g, i)
    if g.verify and _read_back(g, i):
        return
    g.in_flight -= 1
    if io.epoch:
        g.epoch = io.epoch
    # A device that is away, or may still use the buffer, leaves this I/O unused: it is not started again.
    if not io.epoch and io.status != -ETIMEDOUT and g.left and not g.stop and g.poller.now < g.end_ns:
        _start(g, i)
    elif g.in_flight == 0:
        g.ended_ns = clock.now_ns()
        c = g.command
        g.command = NULL
        rounds.answer(c, 0)


def _cmd_run(p: PollerPtr, c: CommandPtr) -> int64_t:
    g: LoadPtr = cast(LoadPtr, c.ctx)
    n: uint32_t
    g.command = c
    g.started_ns = clock.now_ns()
    if c.arg:
        g.end_ns = g.started_ns + cast(uint64_t, c.arg)
    g.in_flight += 1  # until all are started: the first may be done before the last
    for n in range(g.depth):
        if g.left:
            _start(g, address(g.ios[n]))
    g.in_flight -= 1
    if g.in_flight == 0:
        return 0
    return COMMAND_LATER


class LoadJob:
    """One job: a load on one bdev from one poller. A verifying or sequential one keeps to its own part of the bdev."""

    g: Load
    poller: Poller
    channels: BdevChannels
    memory: DmaMemory
    address: uint64_t

    def __init__(self, memory: DmaMemory, poller: Poller, channels: BdevChannels, spec: JobSpec) -> None:
        work, pattern = spec.workload, spec.workload.pattern
        start: uint64_t = spec.seed + spec.part * PART_SEED + 1
        self.memory = memory
        self.poller = poller
        self.channels = channels
        self.g.channel = channels.channel(poller)
        self.g.poller = poller.core
        self.g.seed = spec.seed
        self.g.random = (start * MIX_SEED) or 1  # xorshift never leaves 0
        self.g.io_size = work.block_size
        self.g.slots = spec.size // work.block_size
        self.g.depth = work.queue_depth
        self.g.stride = spec.parts * work.queue_depth
        self.g.first = spec.part * work.queue_depth
        self.g.sequence = 0 if pattern.verify else self.g.slots * spec.part // spec.parts
        self.g.left = spec.ios or UINT64_MAX
        self.g.end_ns = UINT64_MAX
        tally.begin(address(self.g.stats))
        self.g.is_random = pattern.random
        self.g.verify = pattern.verify
        self.g.reads = work.reads
        self._make_ios()

    def _make_ios(self) -> None:
        n: uint32_t
        i: LoadIoPtr
        self.g.ios = cast(LoadIoPtr, calloc(self.g.depth, sizeof(LoadIo)))
        if self.g.ios == NULL:
            raise MemoryError
        self.address = self.memory.allocate(self.g.depth * self.g.io_size)
        for n in range(self.g.depth):
            i = address(self.g.ios[n])
            i.load = address(self.g)
            i.index = n
            # Safety: n < depth, and the memory has room for depth I/Os.
            i.buffer = cast(CharPtr, self.address) + n * self.g.io_size
            i.io.done = _done
            i.io.flags = IoFlag.UNSEEN
            i.io.iov = address(i.io.one)
            i.io.iovcnt = 1
            i.io.one.iov_base = i.buffer
            i.io.one.iov_len = self.g.io_size

    async def run(self, seconds: float = 0) -> None:
        """Load until the time (0: none) or the number of I/Os is over, and all are back."""
        await self._run(int(seconds * NS_PER_S))

    def _run(self, duration_ns: int64_t) -> asyncio.Future[int]:
        return self.poller.command(_cmd_run, address(self.g), duration_ns, 0, NULL, self)

    def stop(self) -> None:
        """Start no more I/O; run() returns when all are back."""
        atomics.store_u8(address(self.g.stop), 1)

    def progress(self) -> LoadProgress:
        """What it did so far: what can be asked often."""
        s: OpStatsPtr = address(self.g.stats)
        failed: uint64_t = atomics.relaxed_u64(address(s.failed))
        return LoadProgress(
            atomics.relaxed_u64(address(s.completed)) + failed,
            atomics.relaxed_u64(address(s.bytes)),
            atomics.relaxed_u64(address(s.time_ns)) + atomics.relaxed_u64(address(s.failed_ns)),
            failed,
        )

    def counters(self) -> LoadCounters:
        """All that it counted."""
        return counters_of([self])

    def close(self, give_back: Callable[[int, int], None]) -> None:
        """Give the buffers back, by give_back(epoch, address): epoch is the last session whose device may still use
        them, 0 if none may. Nothing is in flight."""
        if self.address:
            give_back(self.g.epoch, self.address)
        self.address = 0

    def __dealloc__(self) -> None:
        free(self.g.ios)


def counters_of(jobs: list[LoadJob]) -> LoadCounters:
    """The sums over some jobs, at least one."""
    job: LoadJob
    n: cython.int = 0
    started: uint64_t = UINT64_MAX
    ended: uint64_t = 0
    mismatches: uint64_t = 0
    first_error: cython.int = 0
    stats: OpStatsArray = cast(OpStatsArray, calloc(len(jobs), sizeof(OpStatsPtr)))
    if stats == NULL:
        raise MemoryError
    try:
        for job in jobs:
            stats[n] = address(job.g.stats)  # Safety: there is room for len(jobs)
            n += 1
            started = min(started, job.g.started_ns)
            ended = max(ended, job.g.ended_ns)
            mismatches += job.g.mismatches
            first_error = first_error or job.g.first_error
        io = counters.op_counters(stats, n, None)
        return LoadCounters(started, ended, io, counters.bucket_counts(stats, n), mismatches, first_error)
    finally:
        free(stats)
