"""A bdev as a poller sees it: checks, counters and the order of what is in flight.

Every I/O of a bdev passes submit() once and _complete() once, both on the poller that submitted it; so counters
need no locks and balance exactly. Between the two, what serves the bdev has it, on this or another poller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EINVAL, ENODEV, ENOSPC, EOPNOTSUPP, EPERM
from cython.cimports.libc.stdint import UINT64_MAX, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.bdev import cache, identity, kept, rewind, tally
from cython.cimports.virtiod.bdev.kept import KeepPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import (
    OP_COUNT,
    BdevCore,
    BdevCorePtr,
    Channel,
    ChannelArray,
    ChannelPtr,
    CommandPtr,
    Holding,
    HoldingPtr,
    IoPtr,
    MessagePtr,
    Op,
    OpStatsArray,
    OpStatsPtr,
    PollerPtr,
    VoidPtr,
    channel_submit_fn,
    message_fn,
)
from cython.cimports.virtiod.poller import rounds

if TYPE_CHECKING:
    from virtiod.bdev.limits import RequestLimits
    from virtiod.poller.poller import Poller

OPS = ("read", "write", "flush", "unmap", "write_zeroes")


# ---- data path ----------------------------------------------------------------------------------


def _refusal(b: BdevCorePtr, io: IoPtr) -> cython.int:
    """0, or the -errno of an I/O that a device must never be asked for."""
    size: uint64_t
    if atomics.load_u8(address(b.closed)):
        return -ENODEV
    if io.op >= OP_COUNT or not (b.ops >> io.op) & 1:
        return -EOPNOTSUPP
    if b.read_only and io.op != Op.READ and io.op != Op.FLUSH:
        return -EPERM
    if io.op == Op.FLUSH:
        return 0
    size = atomics.load_u64(address(b.size))
    if io.length == 0 or ((io.offset | io.length) & (b.block_size - 1)):
        return -EINVAL
    if io.offset > size or io.length > size - io.offset:
        return -ENOSPC
    return 0


def submit(ch: ChannelPtr, io: IoPtr) -> None:
    """Starts an I/O. Its done() runs later, once, on this poller."""
    refusal: cython.int
    _enter(ch, io)
    refusal = _refusal(ch.bdev, io)
    if refusal:
        rounds.defer(ch.poller, io, refusal)
    elif ch.keep == NULL or kept.admit(ch, io):
        ch.submit(ch, io)
    else:
        _flush_by_itself(ch)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _enter(ch: ChannelPtr, io: IoPtr) -> cython.void:
    """It is in flight from here on, until _complete()."""
    p: PollerPtr = ch.poller
    io.channel = ch
    io.msg.run = _complete_message
    io.submitted_ns = p.now
    io.status = 0
    rewind.rewind(io)
    io.pieces = 0
    io.placed = 0
    io.epoch = 0
    io.kept = NULL
    io.next = NULL
    io.prev = ch.newest
    if ch.newest == NULL:
        ch.oldest = io
        ch.busy_since = p.now
        atomics.store_u64(address(ch.oldest_ns), p.now)
    else:
        ch.newest.next = io
    ch.newest = io
    ch.in_flight += 1
    p.in_flight += 1
    if io.op < OP_COUNT:
        ch.ops[io.op].submitted += 1


def finish(io: IoPtr, status: cython.int, here: PollerPtr) -> None:
    """Completes an I/O that the device is done with, here or on the poller that it came from."""
    io.status = status
    if io.channel.poller == here:
        _complete(io)
    else:
        io.msg.run = _complete_message
        rounds.push(io.channel.poller, address(io.msg))


def forward(io: IoPtr, run: message_fn, owner: PollerPtr) -> None:
    """Hands the I/O to the poller that owns the queue."""
    io.msg.run = run
    rounds.push(owner, address(io.msg))


def _complete_message(m: MessagePtr, p: PollerPtr) -> None:
    _complete(cast(IoPtr, m))


def _complete(io: IoPtr) -> None:
    ch: ChannelPtr = io.channel
    now: uint64_t = ch.poller.now
    if io.prev != NULL:
        io.prev.next = io.next
    else:
        ch.oldest = io.next
        atomics.store_u64(address(ch.oldest_ns), io.next.submitted_ns if io.next != NULL else 0)
    if io.next != NULL:
        io.next.prev = io.prev
    else:
        ch.newest = io.prev
    ch.in_flight -= 1
    ch.poller.in_flight -= 1
    if ch.in_flight == 0:
        ch.busy_ns += now - ch.busy_since
    if ch.keep != NULL:
        kept.ended(ch, io)
    if io.op < OP_COUNT:
        tally.count(address(ch.ops[io.op]), io.status, io.length, now - io.submitted_ns)
    if ch.keep != NULL:
        _flush_by_itself(ch)
    io.done(io)


# ---- flushes of virtiod's own -------------------------------------------------------------------


def _flush_by_itself(ch: ChannelPtr) -> None:
    """If it is time to."""
    k: KeepPtr = cast(KeepPtr, ch.keep)
    if kept.wants_flush(k):
        start_flush(k)


def start_flush(k: KeepPtr) -> None:
    io: IoPtr = address(k.flush)
    k.flushing = 1
    io.op = Op.FLUSH
    io.done = _flushed
    io.owner = k
    _enter(address(k.own), io)
    io.mark = atomics.load_u64(address(k.channel.bdev.acknowledged))
    k.own.submit(address(k.own), io)


def _flushed(io: IoPtr) -> None:
    k: KeepPtr = cast(KeepPtr, io.owner)
    c: CommandPtr = k.settle
    k.flushing = 0
    if io.status == 0:
        kept.stabilize(k.channel, io.mark)
    elif io.status == -EOPNOTSUPP:
        kept.keep_no_more(k)
    else:
        k.flush_failed = 1
        kept.release(k)
    if c != NULL:
        k.settle = NULL
        rounds.answer(c, io.status)
    _flush_by_itself(k.channel)


# ---- control plane ------------------------------------------------------------------------------


class Holdings:
    """What the bdevs of one controller hold of each poller's buffers."""

    of_poller: HoldingPtr
    count: cython.int

    def __cinit__(self, pollers: cython.int) -> None:
        self.count = pollers
        self.of_poller = cast(HoldingPtr, calloc(pollers, sizeof(Holding)))
        if self.of_poller == NULL:
            raise MemoryError

    def __init__(self, pollers: int) -> None:
        """pollers: how many there are."""

    def quarantined(self) -> tuple[int, int]:
        """Bytes of small and of large buffers that an old device of the controller may still use."""
        i: cython.int
        small: uint64_t = 0
        large: uint64_t = 0
        for i in range(self.count):
            small += atomics.relaxed_u64(address(self.of_poller[i].small))
            large += atomics.relaxed_u64(address(self.of_poller[i].large))
        return small, large

    def __dealloc__(self) -> None:
        free(self.of_poller)


class BdevChannels:
    """A bdev's compiled half: what its channels share, and one channel for each poller.

    Each channel must be connected to what serves it before the first I/O.
    """

    core: BdevCore
    pollers: list[Poller]
    channels: ChannelArray
    stats: OpStatsArray
    count: cython.int
    served_by: object
    holdings: Holdings | None

    def __cinit__(self, pollers: list[Poller]) -> None:
        i: cython.int
        op: cython.int
        self.count = len(pollers)
        self.channels = cast(ChannelArray, calloc(self.count, sizeof(ChannelPtr)))
        self.stats = cast(OpStatsArray, calloc(OP_COUNT * self.count, sizeof(OpStatsPtr)))
        if self.channels == NULL or self.stats == NULL:
            raise MemoryError
        for i in range(self.count):
            self.channels[i] = cast(ChannelPtr, calloc(1, sizeof(Channel)))
            if self.channels[i] == NULL:
                raise MemoryError
            poller: Poller = pollers[i]
            self.channels[i].poller = poller.core
            self.channels[i].bdev = address(self.core)
            for op in range(OP_COUNT):
                tally.begin(address(self.channels[i].ops[op]))
                self.stats[op * self.count + i] = address(self.channels[i].ops[op])

    def __init__(self, pollers: list[Poller]) -> None:
        self.pollers = list(pollers)

    def configure(self, size: int, block_size: int, ops: set[str], read_only: bool, write_cache: bool) -> None:
        """Sets what the bdev is; before the first I/O. size in bytes."""
        bits: cython.uint = 0
        for i, op in enumerate(OPS):
            bits |= (1 << i) if op in ops else 0
        self.core.block_size = block_size
        self.core.ops = bits
        self.core.read_only = read_only
        self.core.write_cache = write_cache
        atomics.store_u64(address(self.core.size), size)

    def limit(self, native: set[str], limits: RequestLimits) -> None:
        """Sets the limits of one request to the device. native: the operations that it has a command for."""
        bits: cython.uint = 0
        for i, op in enumerate(OPS):
            bits |= (1 << i) if op in native else 0
        self.core.native = bits
        self.core.max_segments = limits.max_segments
        self.core.max_segment = limits.max_segment
        self.core.max_transfer = limits.max_transfer
        self.core.max_unmap = limits.max_unmap
        self.core.max_write_zeroes = limits.max_write_zeroes

    def set_unit(self, unit: int, native_fua: bool, zeroes_unmap: bool) -> None:
        """Sets which unit of its device it is, and what its WRITE and WRITE_ZEROES can do; before the first I/O.

        A unit without a volatile cache is not asked to flush one: it may not know the command.
        """
        self.core.unit = unit
        self.core.native_fua = native_fua
        self.core.zeroes_unmap = zeroes_unmap
        self.core.flush_if_cached = 1

    def forget_native_fua(self) -> None:
        """Has FUA writes flushed from now on, for good: nobody knows whether a write in flight took FUA along."""
        atomics.store_u8(address(self.core.native_fua), 0)

    def resize(self, size: int) -> None:
        """Changes the size (bytes) for every later I/O."""
        atomics.store_u64(address(self.core.size), size)

    def doubt_cache(self) -> None:
        """Has the cache count as volatile until settle_cache(): the device may have changed its mode."""
        cache.doubt(address(self.core))

    def cache_doubts(self) -> int:
        """Returns how often the cache was doubted; to be read before the device is asked, for settle_cache()."""
        return atomics.load_u64(address(self.core.cache_doubts))

    def settle_cache(self, on: bool, doubts: int) -> None:
        """Sets whether the device has a volatile cache, for every later I/O and for FUA writes in flight.

        doubts: cache_doubts() of before the device was asked. A doubt since then outweighs the answer.
        """
        atomics.store_u8(address(self.core.write_cache), on)
        atomics.store_u64(address(self.core.cache_known), doubts)  # release: after the answer that it stands for

    def doubt_identity(self, reset: bool = False) -> None:
        """Have the kind of controller hold all I/O until settle_identity(): the disk may have become another one.

        reset: even if it is the same, its cache may have lost what it held.
        """
        identity.doubt(address(self.core), reset)

    def identity_doubts(self) -> int:
        """How often its identity was doubted; to be read before the disk is looked at, for settle_identity()."""
        return atomics.load_u64(address(self.core.identity_doubts))

    def identity_in_doubt(self) -> bool:
        """Whether I/O is held."""
        return bool(identity.in_doubt(address(self.core)))

    def settle_identity(self, doubts: int) -> None:
        """It is the same disk. doubts: identity_doubts() of before it was looked at; one since then holds I/O on."""
        atomics.store_u64(address(self.core.identity_known), doubts)

    @property
    def was_reset(self) -> bool:
        """Whether its cache may have lost what it held, since the last take_reset()."""
        return bool(atomics.load_u8(address(self.core.was_reset)))

    def take_reset(self) -> bool:
        """The same, and forgets it."""
        was: bool = self.was_reset
        atomics.store_u8(address(self.core.was_reset), 0)
        return was

    def disown(self) -> None:
        """Another disk is in its place: I/O that is held, and all that comes, fails with ENODEV."""
        atomics.store_u8(address(self.core.disowned), 1)
        self.doubt_identity()

    @property
    def disowned(self) -> bool:
        return bool(atomics.load_u8(address(self.core.disowned)))

    def count_loss(self) -> None:
        """Acknowledged writes were lost: every user's next flush fails, once."""
        atomics.fetch_add_u64(address(self.core.losses), 1)

    def losses(self) -> int:
        """How often acknowledged writes were lost."""
        return atomics.relaxed_u64(address(self.core.losses))

    def close(self) -> None:
        """Refuses every later I/O with ENODEV."""
        atomics.store_u8(address(self.core.closed), 1)

    def in_flight(self) -> int:
        """I/Os submitted and not yet completed, on all pollers."""
        return self.in_flight_of(0, self.count)

    def oldest_ns(self) -> int:
        """When the oldest I/O in flight was submitted (CLOCK_MONOTONIC, ns); 0 when there is none."""
        return self.oldest_of(0, self.count)

    def in_flight_of(self, first: cython.int, n: cython.int) -> uint64_t:
        """I/Os in flight on n channels, from the first on."""
        i: cython.int
        total: uint64_t = 0
        for i in range(first, first + n):
            total += atomics.relaxed_u64(address(self.channels[i].in_flight))
        return total

    def oldest_of(self, first: cython.int, n: cython.int) -> uint64_t:
        """When the oldest I/O in flight on n channels, from the first on, was submitted; as oldest_ns()."""
        i: cython.int
        at: uint64_t
        oldest: uint64_t = 0
        for i in range(first, first + n):
            at = atomics.relaxed_u64(address(self.channels[i].oldest_ns))
            if at and (oldest == 0 or at < oldest):
                oldest = at
        return oldest

    def channel(self, poller: Poller) -> ChannelPtr:
        """The channel of a poller."""
        return self.channels[self.pollers.index(poller)]

    def connect(self, index: cython.int, submit: channel_submit_fn, device: VoidPtr) -> None:
        """Connects channel `index` to submit(channel, io), which works on `device`."""
        self.channels[index].submit = submit
        self.channels[index].device = device

    def hold_by(self, holdings: Holdings) -> None:
        """Count the buffers that its I/O holds among those of a controller; before the first I/O."""
        i: cython.int
        self.holdings = holdings
        for i in range(self.count):
            self.channels[i].holding = address(holdings.of_poller[i])

    def reset_extremes(self) -> None:
        """Forgets the smallest and largest latencies."""
        i: cython.int
        for i in range(OP_COUNT * self.count):
            atomics.store_u64(address(self.stats[i].min_ns), UINT64_MAX)
            atomics.store_u64(address(self.stats[i].max_ns), 0)
            atomics.store_u64(address(self.stats[i].failed_min_ns), UINT64_MAX)
            atomics.store_u64(address(self.stats[i].failed_max_ns), 0)

    def __dealloc__(self) -> None:
        i: cython.int
        if self.channels != NULL:
            for i in range(self.count):
                free(self.channels[i])
            free(self.channels)
        free(self.stats)
