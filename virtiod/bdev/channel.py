"""A bdev as a poller sees it: checks, statistics and the order of what is in flight.

Every I/O of a bdev passes channel_submit() once and _complete() once, both on the poller that submitted it; so counters
need no locks and balance exactly. Between the two the device layer has it, on this or another poller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cython
from cython.cimports.libc.errno import (
    EINVAL,
    EIO,
    ENODEV,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    ETIMEDOUT,
)
from cython.cimports.libc.stdint import UINT64_MAX, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.core.atomics import (
    vd_clock_ns,
    vd_load_u8,
    vd_load_u64,
    vd_log2,
    vd_relaxed_u64,
    vd_store_u8,
    vd_store_u64,
)
from cython.cimports.virtiod.core.types import (
    ERR_INVAL,
    ERR_IO,
    ERR_NODEV,
    ERR_NOSPC,
    ERR_NOTSUP,
    ERR_OTHER,
    ERR_PERM,
    ERR_TIMEOUT,
    HIST_BUCKETS,
    HIST_SUB,
    HIST_SUB_BITS,
    OP_COUNT,
    OP_FLUSH,
    OP_READ,
    BdevCore,
    BdevCorePtr,
    Channel,
    ChannelArray,
    ChannelPtr,
    IoPtr,
    MessagePtr,
    OpStatsPtr,
    PollerPtr,
    VoidPtr,
    channel_submit_fn,
    message_fn,
)
from cython.cimports.virtiod.poller.rounds import poller_defer, poller_push

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller

OPS = ("read", "write", "flush", "unmap", "write_zeroes")
ERRORS = ("io", "nospace", "invalid", "readonly", "unsupported", "timeout", "nodevice", "other")
HISTOGRAM_SUB_BUCKETS = HIST_SUB
NO_MIN = UINT64_MAX


class OpCounters(NamedTuple):
    """One operation of one bdev or channel. Times in ns; min_ns and max_ns since the last reset, 0 for none.

    buckets[range * 32 + i]: for range 0 latencies of i ns; for range r >= 1 those from (32 + i) * 2^(r-1) ns on,
    2^(r-1) ns wide.
    """

    submitted: int
    completed: int
    failed: int
    bytes: int
    time_ns: int
    min_ns: int
    max_ns: int
    buckets: list[int]


class ChannelCounters(NamedTuple):
    """A channel's counters. oldest_ns is the age of the oldest I/O in flight, 0 for none."""

    ops: dict[str, OpCounters]
    errors: dict[str, dict[str, int]]
    in_flight: int
    oldest_ns: int
    busy_ns: int
    weighted_ns: int


# ---- data path ----------------------------------------------------------------------------------


def histogram_index(ns: uint64_t) -> cython.uint:
    """The bucket of a latency: exact below 32 ns, then 32 buckets for each power of two."""
    shift: cython.int
    index: cython.uint
    if ns < HIST_SUB:
        return cython.cast(cython.uint, ns)
    shift = vd_log2(ns) - HIST_SUB_BITS
    index = cython.cast(cython.uint, (shift + 1) * HIST_SUB + ((ns >> shift) & (HIST_SUB - 1)))
    return index if index < HIST_BUCKETS else HIST_BUCKETS - 1


def _refusal(b: BdevCorePtr, io: IoPtr) -> cython.int:
    """0, or why the I/O can't be: what a device must never be asked."""
    size: uint64_t
    if vd_load_u8(cython.address(b.closed)):
        return -ENODEV
    if io.op >= OP_COUNT or not (b.ops >> io.op) & 1:
        return -EOPNOTSUPP
    if b.read_only and io.op != OP_READ and io.op != OP_FLUSH:
        return -EPERM
    if io.op == OP_FLUSH:
        return 0
    size = vd_load_u64(cython.address(b.size))
    if io.length == 0 or ((io.offset | io.length) & (b.block_size - 1)):
        return -EINVAL
    if io.offset > size or io.length > size - io.offset:
        return -ENOSPC
    return 0


def channel_submit(ch: ChannelPtr, io: IoPtr) -> None:
    """Start an I/O. Its done() runs later, once, on this poller."""
    p: PollerPtr = ch.poller
    refusal: cython.int
    io.channel = ch
    io.msg.run = _complete_message
    io.submitted_ns = p.now
    io.status = 0
    io.cursor = 0
    io.iov_index = 0
    io.iov_offset = 0
    io.pieces = 0
    io.phase = 0
    io.placed = 0
    io.next = cython.NULL
    io.prev = ch.newest
    if ch.newest == cython.NULL:
        ch.oldest = io
        ch.busy_since = p.now
        vd_store_u64(cython.address(ch.oldest_ns), p.now)
    else:
        ch.newest.next = io
    ch.newest = io
    ch.in_flight += 1
    p.in_flight += 1
    if io.op < OP_COUNT:
        ch.ops[io.op].submitted += 1
    refusal = _refusal(ch.bdev, io)
    if refusal:
        poller_defer(p, io, refusal)
    else:
        ch.submit(ch, io)


def io_return(io: IoPtr, status: cython.int, here: PollerPtr) -> None:
    """The device is done with the I/O: complete it here, or hand it to the poller that it came from."""
    io.status = status
    if io.channel.poller == here:
        _complete(io)
    else:
        io.msg.run = _complete_message
        poller_push(io.channel.poller, cython.address(io.msg))


def io_forward(io: IoPtr, run: message_fn, owner: PollerPtr) -> None:
    """Hand the I/O to the poller that owns the queue."""
    io.msg.run = run
    poller_push(owner, cython.address(io.msg))


def _complete_message(m: MessagePtr, p: PollerPtr) -> None:
    _complete(cython.cast(IoPtr, m))


def _complete(io: IoPtr) -> None:
    ch: ChannelPtr = io.channel
    now: uint64_t = ch.poller.now
    if io.prev != cython.NULL:
        io.prev.next = io.next
    else:
        ch.oldest = io.next
        vd_store_u64(cython.address(ch.oldest_ns), io.next.submitted_ns if io.next != cython.NULL else 0)
    if io.next != cython.NULL:
        io.next.prev = io.prev
    else:
        ch.newest = io.prev
    ch.in_flight -= 1
    ch.poller.in_flight -= 1
    if ch.in_flight == 0:
        ch.busy_ns += now - ch.busy_since
    if io.op < OP_COUNT:
        _account(cython.address(ch.ops[io.op]), io, now)
        if io.status:
            ch.errors[io.op][_error_class(io.status)] += 1
    io.done(io)


def _account(stats: OpStatsPtr, io: IoPtr, now: uint64_t) -> None:
    latency: uint64_t = now - io.submitted_ns
    stats.time_ns += latency
    if io.status == 0:
        stats.completed += 1
        stats.bytes += io.length
    else:
        stats.failed += 1
    if latency < stats.min_ns:
        stats.min_ns = latency
    if latency > stats.max_ns:
        stats.max_ns = latency
    stats.buckets[histogram_index(latency)] += 1


def _error_class(status: cython.int) -> cython.uint:
    if status == -EIO:
        return ERR_IO
    if status == -ENOSPC:
        return ERR_NOSPC
    if status == -EINVAL:
        return ERR_INVAL
    if status == -EPERM:
        return ERR_PERM
    if status == -EOPNOTSUPP:
        return ERR_NOTSUP
    if status == -ETIMEDOUT:
        return ERR_TIMEOUT
    if status == -ENODEV:
        return ERR_NODEV
    return ERR_OTHER


# ---- control plane ------------------------------------------------------------------------------


class BdevChannels:
    """A bdev's compiled half: what its channels share, and one channel for each poller.

    A device layer connects each channel to what serves it before the first I/O.
    """

    core: BdevCore
    pollers: list[Poller]
    channels: ChannelArray
    count: cython.int
    served_by: object

    def __cinit__(self, pollers: list[Poller]) -> None:
        i: cython.int
        op: cython.int
        self.count = len(pollers)
        self.channels = cython.cast(ChannelArray, calloc(self.count, cython.sizeof(ChannelPtr)))
        if self.channels == cython.NULL:
            raise MemoryError
        for i in range(self.count):
            self.channels[i] = cython.cast(ChannelPtr, calloc(1, cython.sizeof(Channel)))
            if self.channels[i] == cython.NULL:
                raise MemoryError
            poller: Poller = pollers[i]
            self.channels[i].poller = poller.core
            self.channels[i].bdev = cython.address(self.core)
            for op in range(OP_COUNT):
                self.channels[i].ops[op].min_ns = UINT64_MAX

    def __init__(self, pollers: list[Poller]) -> None:
        self.pollers = list(pollers)

    def configure(self, size: int, block_size: int, ops: set[str], read_only: bool, write_cache: bool) -> None:
        """Say what the bdev is; before the first I/O. size in bytes."""
        bits: cython.uint = 0
        for i, op in enumerate(OPS):
            bits |= (1 << i) if op in ops else 0
        self.core.block_size = block_size
        self.core.ops = bits
        self.core.read_only = read_only
        self.core.write_cache = write_cache
        vd_store_u64(cython.address(self.core.size), size)

    def limit(
        self,
        native: set[str],
        max_segments: int,
        max_segment: int,
        max_transfer: int,
        max_unmap: int,
        max_write_zeroes: int,
    ) -> None:
        """Say what one request to the device may be, in bytes; native: operations it has a command for."""
        bits: cython.uint = 0
        for i, op in enumerate(OPS):
            bits |= (1 << i) if op in native else 0
        self.core.native = bits
        self.core.max_segments = max_segments
        self.core.max_segment = max_segment
        self.core.max_transfer = max_transfer
        self.core.max_unmap = max_unmap
        self.core.max_write_zeroes = max_write_zeroes

    def set_unit(self, address: int, native_fua: bool, zeroes_unmap: bool) -> None:
        """Say which unit of its device it is, and what its WRITE and WRITE_ZEROES can do; before the first I/O."""
        self.core.unit = address
        self.core.native_fua = native_fua
        self.core.zeroes_unmap = zeroes_unmap

    def resize(self, size: int) -> None:
        """Change the size (bytes) for every later I/O."""
        vd_store_u64(cython.address(self.core.size), size)

    def set_write_cache(self, on: bool) -> None:
        vd_store_u8(cython.address(self.core.write_cache), on)

    def close(self) -> None:
        """Refuse every later I/O with ENODEV."""
        vd_store_u8(cython.address(self.core.closed), 1)

    def in_flight(self) -> int:
        """I/Os submitted and not yet completed, on all pollers."""
        i: cython.int
        n: uint64_t = 0
        for i in range(self.count):
            n += vd_relaxed_u64(cython.address(self.channels[i].in_flight))
        return n

    def oldest_ns(self) -> int:
        """When the oldest I/O in flight was submitted (CLOCK_MONOTONIC, ns); 0 when there is none."""
        i: cython.int
        at: uint64_t
        oldest: uint64_t = 0
        for i in range(self.count):
            at = vd_relaxed_u64(cython.address(self.channels[i].oldest_ns))
            if at and (oldest == 0 or at < oldest):
                oldest = at
        return oldest

    def channel(self, poller: Poller) -> ChannelPtr:
        """The channel of a poller."""
        return self.channels[self.pollers.index(poller)]

    def connect(self, index: cython.int, submit: channel_submit_fn, device: VoidPtr) -> None:
        """Have the channel of poller number index served by submit() with device."""
        self.channels[index].submit = submit
        self.channels[index].device = device

    def counters(self, index: int, latencies: bool = True) -> ChannelCounters:
        """The counters of the channel on poller number index; without latencies (no buckets) it is fast."""
        op: cython.int
        k: cython.int
        ch: ChannelPtr = self.channels[cython.cast(cython.int, index)]
        now: uint64_t = vd_clock_ns()
        oldest: uint64_t = vd_relaxed_u64(cython.address(ch.oldest_ns))
        in_flight: uint64_t = vd_relaxed_u64(cython.address(ch.in_flight))
        since: uint64_t = vd_relaxed_u64(cython.address(ch.busy_since))
        busy: uint64_t = vd_relaxed_u64(cython.address(ch.busy_ns))
        weighted: uint64_t = 0
        ops: dict[str, OpCounters] = {}
        errors: dict[str, dict[str, int]] = {}
        for op in range(OP_COUNT):
            weighted += vd_relaxed_u64(cython.address(ch.ops[op].time_ns))
            ops[OPS[op]] = _op_counters(cython.address(ch.ops[op]), latencies)
            errors[OPS[op]] = {ERRORS[k]: ch.errors[op][k] for k in range(8) if ch.errors[op][k]}
        if in_flight and now > since:
            busy += now - since
        return ChannelCounters(ops, errors, in_flight, now - oldest if oldest and now > oldest else 0, busy, weighted)

    def reset_extremes(self) -> None:
        """Forget the smallest and largest latencies."""
        i: cython.int
        op: cython.int
        for i in range(self.count):
            for op in range(OP_COUNT):
                vd_store_u64(cython.address(self.channels[i].ops[op].min_ns), UINT64_MAX)
                vd_store_u64(cython.address(self.channels[i].ops[op].max_ns), 0)

    def __dealloc__(self) -> None:
        i: cython.int
        if self.channels != cython.NULL:
            for i in range(self.count):
                free(self.channels[i])
            free(self.channels)


@cython.cfunc
def _op_counters(s: OpStatsPtr, latencies: cython.bint) -> object:
    i: cython.int
    minimum: uint64_t = vd_relaxed_u64(cython.address(s.min_ns))
    return OpCounters(
        vd_relaxed_u64(cython.address(s.submitted)),
        vd_relaxed_u64(cython.address(s.completed)),
        vd_relaxed_u64(cython.address(s.failed)),
        vd_relaxed_u64(cython.address(s.bytes)),
        vd_relaxed_u64(cython.address(s.time_ns)),
        0 if minimum == UINT64_MAX else minimum,
        vd_relaxed_u64(cython.address(s.max_ns)),
        [s.buckets[i] for i in range(HIST_BUCKETS)] if latencies else [],
    )
