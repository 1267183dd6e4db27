"""The load generator: keeps a number of I/Os in flight on one channel, and counts.

Runs on the channel's poller, driven by completions alone. A verifying I/O writes a pattern made of the seed, the place
and a generation, reads it back into a poisoned buffer and compares; each I/O has places of its own, so none meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import ETIMEDOUT
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.bdev import channel
from cython.cimports.virtiod.bdev.channel import histogram_index
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    HIST_BUCKETS,
    CharPtr,
    CommandPtr,
    IoPtr,
    Op,
    PollerPtr,
    U64Ptr,
)
from cython.cimports.virtiod.load.job import Load, LoadIo, LoadIoPtr, LoadPtr
from cython.cimports.virtiod.poller import rounds

if TYPE_CHECKING:
    import asyncio

    from virtiod.bdev.channel import BdevChannels
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller

POISON = cython.declare(cython.int, 0xA5)
XORSHIFT = cython.declare(uint64_t, 0x2545F4914F6CDD1D)  # xorshift64*
MIX_SEED = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
MIX_PLACE = cython.declare(uint64_t, 0xC2B2AE3D27D4EB4F)
SMALL_RANGE = cython.declare(uint64_t, 0xFFFFFFFF)


class LoadCounters(NamedTuple):
    """What a job did so far. Times in ns; first_error is -errno or 0; buckets as a bdev's."""

    started_ns: int
    ended_ns: int
    done: int
    failed: int
    timed_out: int
    mismatches: int
    bytes: int
    time_ns: int
    min_ns: int
    max_ns: int
    first_error: int
    buckets: list[int]


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
        slot = g.sequence
        if g.verify:
            slot = slot // g.depth
        slot = slot % n
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
    channel.submit(g.channel, io)


def _count(g: LoadPtr, i: LoadIoPtr) -> None:
    latency: uint64_t = g.poller.now - i.io.submitted_ns
    g.done += 1
    if i.io.status:
        g.failed += 1
        g.timed_out += i.io.status == -ETIMEDOUT
        if not g.first_error:
            g.first_error = i.io.status
    else:
        g.bytes += g.io_size
    g.time_ns += latency
    if latency < g.min_ns:
        g.min_ns = latency
    if latency > g.max_ns:
        g.max_ns = latency
    g.buckets[histogram_index(latency)] += 1


def _read_back(g: LoadPtr, i: LoadIoPtr) -> cython.bint:
    """verify: go on from what i just did; true if its read was started."""
    if i.reading_back:
        if not i.io.status and not _matches(g, i):
            g.mismatches += 1
        return False
    if i.io.status:
        return False
    i.reading_back = 1
    memset(i.buffer, POISON, g.io_size)
    i.io.op = Op.READ
    channel.submit(g.channel, address(i.io))
    return True


def _done(io: IoPtr) -> None:
    i: LoadIoPtr = cast(LoadIoPtr, io)
    g: LoadPtr = i.load
    c: CommandPtr
    _count(g, i)
    if g.verify and _read_back(g, i):
        return
    g.in_flight -= 1
    # A device that may still write to the buffer leaves this I/O unused: it is not started again.
    if io.status != -ETIMEDOUT and g.left and not g.stop and g.poller.now < g.end_ns:
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


@dataclass(frozen=True)
class LoadSpec:
    """What a job does.

    rw is "randread", "randwrite", "randrw", "read", "write", "rw" or "verify"; reads: per cent of randrw and rw. part
    of parts: jobs that share a bdev; a verifying or sequential one keeps to its own places. io_count 0 for no limit.
    """

    rw: str
    io_size: int
    depth: int
    reads: int = 50
    seed: int = 0
    io_count: int = 0
    part: int = 0
    parts: int = 1


class LoadJob:
    """One job: a load on one bdev of size bytes from one poller."""

    g: Load
    poller: Poller
    channels: BdevChannels
    memory: DmaMemory
    address: uint64_t

    def __init__(self, memory: DmaMemory, poller: Poller, channels: BdevChannels, size: int, spec: LoadSpec) -> None:
        n: uint32_t
        rw, io_size, depth, part, parts = spec.rw, spec.io_size, spec.depth, spec.part, spec.parts
        self.memory = memory
        self.poller = poller
        self.channels = channels
        self.g.channel = channels.channel(poller)
        self.g.poller = poller.core
        self.g.seed = spec.seed
        self.g.random = ((spec.seed + part * 7919 + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF or 1
        self.g.io_size = io_size
        self.g.slots = size // io_size
        self.g.depth = depth
        self.g.stride = parts * depth
        self.g.first = part * depth
        self.g.sequence = 0 if rw == "verify" else self.g.slots * part // parts
        self.g.left = spec.io_count or UINT64_MAX
        self.g.end_ns = UINT64_MAX
        self.g.min_ns = UINT64_MAX
        self.g.is_random = rw in {"randread", "randwrite", "randrw", "verify"}
        self.g.verify = rw == "verify"
        self.g.reads = {"randread": 100, "read": 100, "randwrite": 0, "write": 0}.get(rw, spec.reads)
        self.g.ios = cast(LoadIoPtr, calloc(depth, sizeof(LoadIo)))
        if self.g.ios == NULL:
            raise MemoryError
        self.address = memory.allocate(depth * io_size)
        for n in range(self.g.depth):
            self.g.ios[n].load = address(self.g)
            self.g.ios[n].index = n
            self.g.ios[n].buffer = cast(CharPtr, self.address) + n * self.g.io_size
            self.g.ios[n].io.done = _done
            self.g.ios[n].io.iov = address(self.g.ios[n].io.one)
            self.g.ios[n].io.iovcnt = 1
            self.g.ios[n].io.one.iov_base = self.g.ios[n].buffer
            self.g.ios[n].io.one.iov_len = self.g.io_size

    async def run(self, seconds: float = 0) -> None:
        """Load until the time (0: none) or the number of I/Os is over, and all are back."""
        await self._run(int(seconds * 1e9))

    def _run(self, duration_ns: int64_t) -> asyncio.Future[int]:
        return self.poller.command(_cmd_run, address(self.g), duration_ns, 0, NULL, self)

    def stop(self) -> None:
        """Start no more I/O; run() returns when all are back."""
        atomics.store_u8(address(self.g.stop), 1)

    def progress(self) -> tuple[int, int, int, int]:
        """I/Os done, bytes, sum of latencies (ns), I/Os failed: what can be asked often."""
        g: LoadPtr = address(self.g)
        return (
            atomics.relaxed_u64(address(g.done)),
            atomics.relaxed_u64(address(g.bytes)),
            atomics.relaxed_u64(address(g.time_ns)),
            atomics.relaxed_u64(address(g.failed)),
        )

    def counters(self) -> LoadCounters:
        i: cython.int
        g: LoadPtr = address(self.g)
        return LoadCounters(
            g.started_ns,
            g.ended_ns,
            atomics.relaxed_u64(address(g.done)),
            g.failed,
            g.timed_out,
            g.mismatches,
            atomics.relaxed_u64(address(g.bytes)),
            atomics.relaxed_u64(address(g.time_ns)),
            0 if g.min_ns == UINT64_MAX else g.min_ns,
            g.max_ns,
            g.first_error,
            [g.buckets[i] for i in range(HIST_BUCKETS)],
        )

    def close(self) -> None:
        """Give the buffers back, unless a device may still write to them. Nothing is in flight."""
        if self.address and not self.g.timed_out:
            self.memory.free(self.address)
        self.address = 0

    def __dealloc__(self) -> None:
        free(self.g.ios)
