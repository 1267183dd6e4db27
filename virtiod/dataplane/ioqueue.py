"""A controller's request queue: carries bdev I/O to a virtqueue and back, whatever the kind of device.

An I/O becomes one or more pieces, each within the device's limits; a piece takes a slot, a slot a chain on the ring.
When slots or descriptors run out, I/Os wait in order. Slots are private and are the truth: after the device was away
its ring is emptied and every slot in use is put on it again; nothing is both lost and unanswered.

All of this runs on the poller that owns the queue. Channels of other pollers hand their I/O over as messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EBUSY, EINVAL, ENODEV, EPROTO
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset, strncpy
from cython.cimports.posix.unistd import write
from cython.cimports.virtiod.dataplane.atomics import vd_clock_ns, vd_mmio_store_u16, vd_relaxed_u64
from cython.cimports.virtiod.dataplane.channel import io_forward, io_return
from cython.cimports.virtiod.dataplane.ioqueue import (
    DATA_SEG,
    KIND_CONTROL,
    NO_SLOT,
    PHASE_FUA,
    PHASE_FUA_SENT,
    PHASE_HANDED,
    RESULT_RETRY,
    IoQueue,
    IoQueueArray,
    IoQueuePtr,
    RoutePtr,
    Slot,
    SlotPtr,
)
from cython.cimports.virtiod.dataplane.poller import (
    command_done,
    mailbox_push,
    poller_add_source,
    poller_defer,
    poller_remove_source,
)
from cython.cimports.virtiod.dataplane.structs import (
    COMMAND_LATER,
    IO_FUA,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    BdevCorePtr,
    ChannelPtr,
    CharPtr,
    CommandPtr,
    IoPtr,
    MessagePtr,
    PollerPtr,
    SourcePtr,
    U64Ptr,
    UnitSharePtr,
    VoidPtr,
)
from cython.cimports.virtiod.dataplane.virtq import virtq_bytes, virtq_free, virtq_init
from cython.cimports.virtiod.dataplane.vring import Seg, SegPtr

from virtiod.errors import NoMemory

if TYPE_CHECKING:
    import asyncio

    from virtiod.dataplane.channel import BdevChannels
    from virtiod.dataplane.poller import Poller
    from virtiod.memory import DmaMemory, Translation

BATCH = cython.declare(cython.int, 256)  # completions taken in one round
ZEROES = 65536
RETRY_NO_ROOM_NS = cython.declare(uint64_t, 1_000_000)
# Sleeps of a poller that no interrupt would end: from the shortest on, each twice as long as the one before.
NAP_NS = cython.declare(uint32_t, 50_000)
NAP_IO_NS = cython.declare(uint32_t, 1_000_000)  # the longest while I/O is in flight
NAP_COMMAND_NS = cython.declare(uint32_t, 20_000_000)  # while only commands are, which may wait for ever


@dataclass(frozen=True)
class QueueCounters:
    """A request queue. interrupts: times that its call eventfd ended a sleep; full: times that an I/O had to wait."""

    index: int
    size: int
    in_flight: int
    submitted: int
    completed: int
    kicks: int
    interrupts: int
    full: int
    poller: str


# ---- addresses ----------------------------------------------------------------------------------


def to_device(q: IoQueuePtr, address: uint64_t) -> uint64_t:
    if q.pages == cython.NULL:
        return address + q.delta
    # Safety: pages has an entry for each page that DMA memory may ever have.
    page: uint64_t = q.pages[(address - q.pages_base) >> q.page_shift]
    return page + (address & ((cython.cast(uint64_t, 1) << q.page_shift) - 1))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _left_in_page(q: IoQueuePtr, at: uint64_t) -> uint64_t:
    """Bytes from an address to the end of its page: the next one may lie anywhere for the device."""
    size: uint64_t = cython.cast(uint64_t, 1) << q.page_shift
    return size - (at & (size - 1))


# ---- pieces -------------------------------------------------------------------------------------


def _piece_limit(io: IoPtr) -> uint64_t:
    """The most bytes of io that one request may carry."""
    b: BdevCorePtr = io.channel.bdev
    if io.op == OP_UNMAP:
        return b.max_unmap
    if io.op == OP_WRITE_ZEROES and (b.native >> OP_WRITE_ZEROES) & 1:
        return b.max_write_zeroes
    return b.max_transfer


def _gather(q: IoQueuePtr, io: IoPtr, s: SlotPtr, limit: uint64_t) -> uint32_t:
    """Fill segs from where the slot begins in io's iov, at most limit bytes, and set the slot's length to what fits:
    a whole number of blocks. Returns the number of segments."""
    b: BdevCorePtr = io.channel.bdev
    index: uint32_t = s.iov_index
    offset: uint64_t = s.iov_offset
    total: uint64_t = 0
    n: uint32_t = 0
    take: uint64_t
    left: uint64_t
    at: uint64_t
    seg: SegPtr = cython.address(q.segs[DATA_SEG])
    zero: cython.bint = io.op == OP_WRITE_ZEROES
    while total < limit and n < b.max_segments:
        if zero:
            left = q.zeroes_len
        else:
            # Safety: the iov's total is the I/O's length, so index stays below iovcnt while total < limit.
            left = io.iov[index].iov_len - offset
        take = limit - total
        if take > left:
            take = left
        if take > b.max_segment:
            take = b.max_segment
        if zero:
            seg[n].addr = to_device(q, cython.cast(uint64_t, q.zeroes))
        else:
            at = cython.cast(uint64_t, io.iov[index].iov_base) + offset
            if q.pages != cython.NULL:
                left = _left_in_page(q, at)
                if take > left:
                    take = left
            seg[n].addr = to_device(q, at)
            offset += take
            if offset == io.iov[index].iov_len:
                index += 1
                offset = 0
        seg[n].len = cython.cast(uint32_t, take)
        n += 1
        total += take
    left = total & (b.block_size - 1)
    total -= left
    while left:  # what is beyond the last whole block goes into the next piece
        if seg[n - 1].len > left:
            seg[n - 1].len -= cython.cast(uint32_t, left)
            left = 0
        else:
            left -= seg[n - 1].len
            n -= 1
    s.length = total
    return n


def _build(q: IoQueuePtr, slot: uint32_t, limit: uint64_t) -> cython.int:
    """Put a slot on the ring; its length becomes what fits. 0 or -ENOSPC."""
    s: SlotPtr = cython.address(q.slots[slot])
    io: IoPtr = s.io
    n: uint32_t = 0
    if s.kind == KIND_CONTROL:
        return q.ops.build(q, slot, 0)
    if s.kind == OP_READ or s.kind == OP_WRITE:
        if (
            io.iovcnt == 1
            and io.op != OP_WRITE_ZEROES
            and limit <= io.channel.bdev.max_segment
            and q.pages == cython.NULL
        ):
            q.segs[DATA_SEG].addr = cython.cast(uint64_t, io.iov[0].iov_base) + s.iov_offset + q.delta
            q.segs[DATA_SEG].len = cython.cast(uint32_t, limit)
            s.length = limit
            n = 1
        else:
            n = _gather(q, io, s, limit)
    else:
        s.length = limit
    if s.length == 0 and s.kind != OP_FLUSH:
        return -EINVAL  # the device's segments, or the I/O's, can't hold a whole block
    return q.ops.build(q, slot, n)


def _hand_piece(q: IoQueuePtr, io: IoPtr) -> cython.bint:
    """Hand the next piece of io to the device; false if it has to wait."""
    s: SlotPtr
    ret: cython.int
    limit: uint64_t = io.length - io.cursor
    share: UnitSharePtr = io.channel.bdev.shares
    slot: uint32_t
    if share != cython.NULL and _unit_full(q, io):
        return False
    slot = _take_slot(q)
    if slot == NO_SLOT:
        return False
    s = cython.address(q.slots[slot])
    s.io = io
    s.command = cython.NULL
    s.kind = io.op
    s.offset = io.offset + io.cursor
    s.iov_index = io.iov_index
    s.iov_offset = io.iov_offset
    if io.phase == PHASE_FUA:
        s.kind = OP_FLUSH
    elif io.op == OP_WRITE_ZEROES and not (io.channel.bdev.native >> OP_WRITE_ZEROES) & 1:
        s.kind = OP_WRITE
    if s.kind != OP_FLUSH and limit > _piece_limit(io):
        limit = _piece_limit(io)
    ret = _build(q, slot, limit)
    if ret < 0:
        _free_slot(q, slot)
        if ret == -EINVAL:
            io.status = ret
        return ret == -EINVAL
    if share != cython.NULL:
        share[q.number].taken += not io.placed
        io.placed = 0
    q.submitted += 1
    io.pieces += 1
    q.source.dirty = 1
    if s.kind == OP_READ or s.kind == OP_WRITE:
        _skip(io, s.length)
    io.cursor += s.length
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _skip(io: IoPtr, n: uint64_t) -> cython.void:
    """Move the I/O's place in its iov by n bytes."""
    left: uint64_t
    if io.op == OP_WRITE_ZEROES:
        return
    while n:
        left = io.iov[io.iov_index].iov_len - io.iov_offset
        if n < left:
            io.iov_offset += n
            return
        n -= left
        io.iov_index += 1
        io.iov_offset = 0


def _advance(q: IoQueuePtr, io: IoPtr) -> cython.bint:
    """Hand over all that is left of io; false if it has to wait."""
    if io.phase == PHASE_FUA:
        if not _hand_piece(q, io):
            return False
        io.phase = PHASE_FUA_SENT
        return True
    if io.op == OP_FLUSH:
        if not _hand_piece(q, io):
            return False
    else:
        while io.cursor < io.length and not io.status:
            if not _hand_piece(q, io):
                return False
    io.phase = PHASE_HANDED
    return True


def _flush_needed(io: IoPtr) -> cython.bint:
    """Whether what a FUA write wrote may still be in the device's cache."""
    b: BdevCorePtr = io.channel.bdev
    if not b.write_cache or (io.op != OP_WRITE and io.op != OP_WRITE_ZEROES):
        return False
    return not b.native_fua or (io.op == OP_WRITE_ZEROES and (b.native >> OP_WRITE_ZEROES) & 1)


def _finish(q: IoQueuePtr, io: IoPtr) -> None:
    """All pieces of io are back. A FUA write is not done before its flush is."""
    if io.phase == PHASE_HANDED and io.flags & IO_FUA and not io.status and _flush_needed(io):
        io.phase = PHASE_FUA
        if q.waiting != cython.NULL or q.stopped or not _advance(q, io):
            _wait(q, io)
        return
    io_return(io, io.status, q.poller)


# ---- slots and waiting --------------------------------------------------------------------------


def _take_slot(q: IoQueuePtr) -> uint32_t:
    slot: uint16_t = q.free_slot
    if slot != NO_SLOT:
        q.free_slot = q.slots[slot].next
        q.slots[slot].used = 1
        q.slots[slot].tries = 0
        q.n_in_flight += 1
    return slot


def _free_slot(q: IoQueuePtr, slot: uint32_t) -> None:
    q.slots[slot].used = 0
    q.slots[slot].io = cython.NULL
    if q.slots[slot].due:
        q.slots[slot].due = 0
        q.n_retry -= 1
    q.slots[slot].next = q.free_slot
    q.free_slot = cython.cast(uint16_t, slot)
    q.n_in_flight -= 1


def _wait(q: IoQueuePtr, io: IoPtr) -> None:
    """Have it wait."""
    q.full += 1
    _line_up(q, io)


def _line_up(q: IoQueuePtr, io: IoPtr) -> None:
    """Put it into the line for what it lacks: a place in its unit, or room on the ring."""
    if _unit_full(q, io):
        _wait_for_unit(cython.address(io.channel.bdev.shares[q.number]), io)
    else:
        _wait_for_room(q, io)


def _wait_for_room(q: IoQueuePtr, io: IoPtr) -> None:
    io.msg.next = cython.NULL
    if q.waiting == cython.NULL:
        q.waiting = io
    else:
        q.waiting_tail.msg.next = cython.cast(MessagePtr, io)
    q.waiting_tail = io


def _serve_waiting(q: IoQueuePtr) -> None:
    """Hand over waiting I/O, in order, until there is no room. What only its unit has no place for makes way."""
    io: IoPtr
    handed: cython.bint
    while q.waiting != cython.NULL and not q.stopped:
        io = q.waiting
        handed = _advance(q, io)
        if not handed and not _unit_full(q, io):
            return
        q.waiting = cython.cast(IoPtr, io.msg.next)
        if not handed:
            _wait_for_unit(cython.address(io.channel.bdev.shares[q.number]), io)
            continue
        _leave_place(q, io)
        if io.pieces == 0:
            _finish(q, io)


# ---- what a unit takes at once ------------------------------------------------------------------
#
# A place that becomes free goes to the I/O that waits first for the unit, which keeps it while it waits in the queue's
# line for room on the ring: neither can starve.


def _unit_full(q: IoQueuePtr, io: IoPtr) -> cython.bint:
    """No place is left in io's unit, nor kept for it."""
    share: UnitSharePtr = io.channel.bdev.shares
    return share != cython.NULL and not io.placed and share[q.number].taken >= share[q.number].limit


def _wait_for_unit(s: UnitSharePtr, io: IoPtr) -> None:
    """Behind the others; at their head if some of it is with the device already."""
    io.msg.next = cython.NULL
    if s.waiting == cython.NULL:
        s.waiting = io
        s.waiting_tail = io
    elif io.cursor:
        io.msg.next = cython.cast(MessagePtr, s.waiting)
        s.waiting = io
    else:
        s.waiting_tail.msg.next = cython.cast(MessagePtr, io)
        s.waiting_tail = io


def _give_place(q: IoQueuePtr, io: IoPtr) -> None:
    """A request of io is back: its place is for the first that waits for the unit."""
    s: UnitSharePtr = io.channel.bdev.shares
    after: IoPtr
    if s == cython.NULL:
        return
    s = cython.address(s[q.number])
    after = s.waiting
    if after == cython.NULL:
        s.taken -= 1
        return
    s.waiting = cython.cast(IoPtr, after.msg.next)
    after.placed = 1
    _wait_for_room(q, after)


def _leave_place(q: IoQueuePtr, io: IoPtr) -> None:
    """io needs no more requests than it has sent."""
    if io.placed:
        io.placed = 0
        _give_place(q, io)


# ---- requests -----------------------------------------------------------------------------------


def ioqueue_submit(q: IoQueuePtr, io: IoPtr) -> None:
    """Start an I/O on the queue's own poller."""
    if q.failed:
        poller_defer_or_return(q, io, -cython.cast(cython.int, q.failed))
        return
    if io.op == OP_FLUSH and not (io.channel.bdev.native >> OP_FLUSH) & 1:
        poller_defer_or_return(q, io, 0)  # no volatile cache: what was written is safe
        return
    if q.waiting != cython.NULL or q.stopped or not _advance(q, io):
        _wait(q, io)
    elif io.pieces == 0:
        poller_defer_or_return(q, io, io.status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def poller_defer_or_return(q: IoQueuePtr, io: IoPtr, status: cython.int) -> cython.void:
    """Complete an I/O that the device never sees; not inside its own channel_submit."""
    if io.channel.poller == q.poller:
        poller_defer(q.poller, io, status)
    else:
        io_return(io, status, q.poller)


def ioqueue_command(q: IoQueuePtr, c: CommandPtr) -> cython.int:
    """Start a control command: the device layer's build() sees KIND_CONTROL; the future gets result()."""
    slot: uint32_t
    ret: cython.int
    if q.failed or (q.stopped and not q.held):
        return -ENODEV
    if q.free_slot == NO_SLOT:
        q.free_slot = q.spare
        q.spare = NO_SLOT
    slot = _take_slot(q)
    if slot == NO_SLOT:
        return -EBUSY
    q.slots[slot].io = cython.NULL
    q.slots[slot].command = c
    q.slots[slot].kind = KIND_CONTROL
    ret = q.ops.build(q, slot, 0)
    if ret < 0:
        _free_slot(q, slot)
        return ret
    q.submitted += 1
    q.n_commands += 1
    q.source.dirty = 1
    return 0


def _complete_slot(q: IoQueuePtr, slot: uint32_t, status: cython.int) -> None:
    s: SlotPtr = cython.address(q.slots[slot])
    io: IoPtr = s.io
    c: CommandPtr = s.command
    _free_slot(q, slot)
    q.completed += 1
    if io == cython.NULL:
        q.n_commands -= 1
        if q.spare == NO_SLOT:
            q.spare = q.free_slot  # the one that was just freed
            q.free_slot = q.slots[q.spare].next
            q.slots[q.spare].next = NO_SLOT
        command_done(c, status)
        return
    _give_place(q, io)
    io.pieces -= 1
    if status and not io.status:
        io.status = status
    if io.pieces == 0 and (io.phase == PHASE_HANDED or io.phase == PHASE_FUA_SENT):
        _finish(q, io)


def _postpone(q: IoQueuePtr, slot: uint32_t) -> None:
    """The device asked for the request again, at the slot's due."""
    if q.n_retry == 0 or q.slots[slot].due < q.retry_at:
        q.retry_at = q.slots[slot].due
    q.n_retry += 1


def _retry(q: IoQueuePtr, now: uint64_t) -> cython.int:
    """Put on the ring again what is due; what finds no room, in a while."""
    i: uint32_t
    n: cython.int = 0
    s: SlotPtr
    at: uint64_t = UINT64_MAX
    for i in range(q.vq.size):
        s = cython.address(q.slots[i])
        if s.due == 0:
            continue
        if s.due <= now:
            if _build(q, i, s.length) == 0:
                s.due = 0
                q.n_retry -= 1
                n += 1
                continue
            s.due = now + RETRY_NO_ROOM_NS
        if s.due < at:
            at = s.due
    q.retry_at = at
    if n:
        q.source.dirty = 1
    return n


def _drained(q: IoQueuePtr) -> cython.bint:
    return q.n_in_flight == q.n_commands and q.waiting == cython.NULL


def _check_drained(q: IoQueuePtr) -> None:
    c: CommandPtr = q.drain
    after: CommandPtr
    if _drained(q):
        q.drain = cython.NULL
        while c != cython.NULL:
            after = cython.cast(CommandPtr, c.msg.next)
            command_done(c, 0)
            c = after


# ---- as a source --------------------------------------------------------------------------------


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: IoQueuePtr = cython.cast(IoQueuePtr, s)
    n: cython.int = 0
    slot: cython.int
    status: cython.int
    written: uint32_t = 0
    while n < BATCH:
        slot = q.vq.ops.pop(cython.address(q.vq), cython.address(written))
        if slot < 0:
            if slot == -EPROTO and q.event.run != cython.NULL:
                q.event.run = cython.NULL
                mailbox_push(q.poller.control, cython.address(q.event))
            break
        if n == 0:
            q.poller.now = vd_clock_ns()  # after the answer: a poller that was preempted would count too short a time
        status = q.ops.result(q, slot, written)
        if status == RESULT_RETRY:
            _postpone(q, slot)
        else:
            _complete_slot(q, slot, status)
        n += 1
    if q.n_retry and now >= q.retry_at:
        n += _retry(q, now)
    if n:
        q.source.nap_ns = 0
        if q.waiting != cython.NULL:
            _serve_waiting(q)
        if q.drain != cython.NULL:
            _check_drained(q)
    return n


def _flush(s: SourcePtr) -> None:
    q: IoQueuePtr = cython.cast(IoQueuePtr, s)
    one: uint64_t = 1
    q.source.nap_ns = 0
    if q.vq.ops.publish(cython.address(q.vq)):
        if q.kick_address:
            # Safety: the transport keeps it mapped until the queue is stopped.
            vd_mmio_store_u16(q.kick_address, q.kick_index)
        else:
            write(q.kick_fd, cython.address(one), 8)
        q.kicks += 1


def _arm(s: SourcePtr) -> cython.bint:
    q: IoQueuePtr = cython.cast(IoQueuePtr, s)
    if q.source.fd < 0:
        _nap(q)
        return q.n_retry != 0
    return q.vq.ops.arm(cython.address(q.vq)) or q.n_retry != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _nap(q: IoQueuePtr) -> cython.void:
    """The device can't interrupt: look again after a while, that grows as nothing comes."""
    longest: uint32_t = NAP_IO_NS if q.n_in_flight != q.n_commands else NAP_COMMAND_NS
    nap: uint32_t = 2 * q.source.nap_ns if q.source.nap_ns else NAP_NS
    q.source.nap_ns = 0 if q.n_in_flight == 0 else nap if nap < longest else longest


def _disarm(s: SourcePtr) -> None:
    q: IoQueuePtr = cython.cast(IoQueuePtr, s)
    if q.source.fd < 0:
        return
    q.vq.ops.disarm(cython.address(q.vq))


# ---- routes -------------------------------------------------------------------------------------


def _submit_local(ch: ChannelPtr, io: IoPtr) -> None:
    r: RoutePtr = cython.cast(RoutePtr, ch.device)
    r.turn = r.turn + 1 if r.turn + 1 < r.n_local else 0
    ioqueue_submit(r.local[r.turn], io)


def _submit_remote(ch: ChannelPtr, io: IoPtr) -> None:
    r: RoutePtr = cython.cast(RoutePtr, ch.device)
    io_forward(io, _arrive, r.remote.poller)


def _arrive(m: MessagePtr, p: PollerPtr) -> None:
    io: IoPtr = cython.cast(IoPtr, m)
    r: RoutePtr = cython.cast(RoutePtr, io.channel.device)
    ioqueue_submit(r.remote, io)


# ---- commands -----------------------------------------------------------------------------------


def _cmd_start(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The device runs the empty ring: put on it again what is in flight, and poll it. arg: hold I/O back."""
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    i: uint32_t
    ret: cython.int = poller_add_source(p, cython.address(q.source))
    if ret:
        return ret
    q.n_retry = 0
    for i in range(q.vq.size):
        q.slots[i].due = 0
        if q.slots[i].used and q.slots[i].kind == KIND_CONTROL:
            _build(q, i, 0)
            q.source.dirty = 1
    q.held = 1
    if not c.arg:
        _release(q)
    return 0


def _release(q: IoQueuePtr) -> None:
    """Put on the ring again the I/O that is in flight, and then what waits."""
    i: uint32_t
    for i in range(q.vq.size):
        if q.slots[i].used and q.slots[i].kind != KIND_CONTROL:
            # Safety: the ring had room for all of them before, and each is built from private state.
            _build(q, i, q.slots[i].length)
            q.source.dirty = 1
    q.held = 0
    q.stopped = 0
    _serve_waiting(q)
    _check_drained(q)


def _cmd_release(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    if q.held:
        _release(q)
    return 0


def _cmd_stop(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The device is away: neither poll nor submit."""
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    if q.held or not q.stopped:
        q.held = 0
        q.stopped = 1
        poller_remove_source(p, cython.address(q.source))
    return 0


def _fail_line(q: IoQueuePtr, io: IoPtr, before: uint64_t, status: cython.int) -> None:
    """End the I/Os of a line that was taken away, if they were submitted before and nothing of them is in flight."""
    after: IoPtr
    while io != cython.NULL:
        after = cython.cast(IoPtr, io.msg.next)
        if io.submitted_ns >= before:
            _line_up(q, io)
        else:
            io.phase = PHASE_FUA_SENT
            if not io.status:
                io.status = status
            _leave_place(q, io)
            if io.pieces == 0:
                io_return(io, io.status, q.poller)
        io = after


def _fail_for_unit(q: IoQueuePtr, io: IoPtr, before: uint64_t, status: cython.int) -> None:
    """The same for what waits for a place in io's unit."""
    s: UnitSharePtr = io.channel.bdev.shares
    line: IoPtr
    if s != cython.NULL:
        line = s[q.number].waiting
        s[q.number].waiting = cython.NULL
        _fail_line(q, line, before, status)


def _fail_waiting(q: IoQueuePtr, before: uint64_t, status: cython.int) -> None:
    """Take the I/Os that were submitted before out of the lines. Each unit that some wait for has requests in flight,
    or keeps places for I/Os in the queue's line."""
    io: IoPtr
    i: uint32_t
    for i in range(q.vq.size):
        if q.slots[i].used and q.slots[i].io != cython.NULL:
            _fail_for_unit(q, q.slots[i].io, before, status)
    io = q.waiting
    while io != cython.NULL:
        _fail_for_unit(q, io, before, status)
        io = cython.cast(IoPtr, io.msg.next)
    io = q.waiting
    q.waiting = cython.NULL
    _fail_line(q, io, before, status)


def _cmd_fail(p: PollerPtr, c: CommandPtr) -> int64_t:
    """End the I/Os submitted before arg (ns) with errno arg2; arg 0: all of them, and all that come.
    Nothing while the queue runs: its device may still answer; while it is held, no control commands.
    Returns how many requests were in flight for them."""
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    before: uint64_t = cython.cast(uint64_t, c.arg) if c.arg else UINT64_MAX
    status: cython.int = -cython.cast(cython.int, c.arg2)
    i: uint32_t
    n: int64_t = 0
    if not q.stopped:
        return 0
    if c.arg == 0:
        q.failed = cython.cast(cython.uchar, c.arg2)
    _fail_waiting(q, before, status)
    for i in range(q.vq.size):
        if not q.slots[i].used or (q.slots[i].io == cython.NULL and q.held):
            continue
        if q.slots[i].io == cython.NULL or q.slots[i].io.submitted_ns < before:
            if q.slots[i].io != cython.NULL:
                q.slots[i].io.phase = PHASE_FUA_SENT
            _complete_slot(q, i, status)
            n += 1
    _check_drained(q)
    return n


def _cmd_drain(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    if _drained(q):
        return 0
    c.msg.next = cython.cast(MessagePtr, q.drain)
    q.drain = c
    return COMMAND_LATER


def _cmd_request(p: PollerPtr, c: CommandPtr) -> int64_t:
    ret: cython.int = ioqueue_command(cython.cast(IoQueuePtr, c.ctx), c)
    return ret if ret else COMMAND_LATER


# ---- control plane ------------------------------------------------------------------------------


class RequestQueue:
    """A request queue of a controller; base of the device layer's classes, which set ops.

    Its ring is in DMA memory from here on until close(). It starts stopped: I/O waits until start().
    """

    q: IoQueue
    index: int
    poller: Poller
    memory: DmaMemory
    address: uint64_t
    bytes: uint64_t
    zeroes_address: uint64_t
    call_fd: int

    def __cinit__(self) -> None:
        memset(cython.address(self.q), 0, cython.sizeof(self.q))
        self.q.kick_fd = -1
        self.q.stopped = 1
        self.call_fd = -1

    def allocate(
        self,
        memory: DmaMemory,
        poller: Poller,
        index: int,
        size: int,
        area_bytes: int,
        max_segments: int,
        indirect: bool,
        event_idx: bool,
    ) -> None:
        """Lay the ring out. size: descriptors; max_segments: data segments of one request."""
        i: uint32_t
        chain: uint32_t = max_segments + DATA_SEG
        self.memory = memory
        self.poller = poller
        self.index = index
        self.q.poller = poller.core
        self.bytes = virtq_bytes(size, area_bytes, chain)
        self.address = memory.allocate(self.bytes, in_one_page=True)
        self.zeroes_address = memory.allocate(ZEROES, in_one_page=True)
        self.q.zeroes = cython.cast(CharPtr, self.zeroes_address)
        self.q.zeroes_len = ZEROES
        ret = virtq_init(
            cython.address(self.q.vq),
            cython.cast(VoidPtr, self.address),
            size,
            area_bytes,
            chain,
            indirect,
            event_idx,
            0,
        )
        if ret:
            raise OSError(-ret, f"ring of {size} descriptors")
        self.q.slots = cython.cast(SlotPtr, calloc(size, cython.sizeof(Slot)))
        self.q.segs = cython.cast(SegPtr, calloc(chain + DATA_SEG, cython.sizeof(Seg)))
        if self.q.slots == cython.NULL or self.q.segs == cython.NULL:
            raise MemoryError
        for i in range(self.q.vq.size):
            self.q.slots[i].next = i + 1 if i + 2 < self.q.vq.size else NO_SLOT
        self.q.free_slot = 0
        self.q.spare = cython.cast(uint16_t, self.q.vq.size - 1)
        self.q.source.poll = _poll
        self.q.source.flush = _flush
        self.q.source.arm = _arm
        self.q.source.disarm = _disarm

    def set_name(self, text: str) -> None:
        """What thread_get_pollers shows."""
        data: bytes = text.encode()[:39]
        strncpy(self.q.source.name, data, 39)

    @property
    def size(self) -> int:
        return self.q.vq.size

    @property
    def stopped(self) -> bool:
        """Not polled: I/O waits."""
        return self.q.stopped != 0

    def ring_addresses(self) -> tuple[int, int, int]:
        """Addresses of the descriptors, the avail and the used ring."""
        return (
            cython.cast(uint64_t, self.q.vq.desc),
            cython.cast(uint64_t, self.q.vq.avail),
            cython.cast(uint64_t, self.q.vq.used),
        )

    def reset(self) -> None:
        """Empty the ring, for a device that has yet to be told of it. The queue is stopped."""
        self.q.vq.ops.reset(cython.address(self.q.vq))

    def translate(self, translation: Translation) -> None:
        """How the device addresses DMA memory. The queue is stopped; its ring is laid out anew by reset()."""
        delta = translation.delta_at(self.address)
        if translation.delta_at(self.address + self.bytes - 1) != delta:
            raise NoMemory(f"a ring of {self.size} descriptors needs {self.bytes} bytes in one page of DMA memory")
        self.q.vq.to_device = delta
        self.q.delta = translation.delta
        self.q.pages = cython.cast(U64Ptr, cython.cast(uint64_t, translation.table))
        self.q.pages_base = translation.base
        self.q.page_shift = translation.shift

    async def start(
        self,
        kick_fd: int,
        call_fd: int,
        on_broken: Callable[[], None],
        hold: bool = False,
        kick_address: int = 0,
    ) -> None:
        """The device runs the ring since its reset(): submit again what was in flight and poll.

        It is kicked by kick_fd, or by a store of the queue's index to the register at kick_address. call_fd -1: it
        can't interrupt. on_broken is called once if the device breaks the ring. hold: I/O waits until release(),
        commands don't.
        """
        self.q.kick_fd = kick_fd
        self.q.kick_address = kick_address
        self.q.kick_index = self.index
        self.q.source.nap_ns = 0
        self.q.source.fd = call_fd
        self.q.event.run = _announced
        self.poller.control.expect(cython.address(self.q.event), on_broken)
        ret: int = await self.poller.command(_cmd_start, cython.address(self.q), hold)
        if ret:
            self.poller.control.forget(cython.address(self.q.event))
            raise OSError(-ret, f"poll queue {self.index}")
        self.poller.own(cython.address(self.q.source), self)

    async def release(self) -> None:
        """Submit the I/O that start() held back."""
        await self.poller.command(_cmd_release, cython.address(self.q))

    async def stop(self) -> None:
        """Neither poll nor submit any more; I/O waits."""
        await self.poller.command(_cmd_stop, cython.address(self.q))
        self.poller.control.forget(cython.address(self.q.event))
        self.poller.disown(cython.address(self.q.source))

    def request(self, out: VoidPtr, keep: object) -> asyncio.Future[int]:
        """A request of the control plane: the future of what result() makes of its answer, negative if it was not sent.
        out: what the device layer's build() and result() work on, which keep owns."""
        return self.poller.command(_cmd_request, cython.address(self.q), 0, 0, out, (keep, self))

    async def fail(self, code: int, before_ns: int = 0) -> int:
        """End I/O with errno code: all of it and all that comes, or (before_ns) what was submitted before that time.

        The queue must be stopped, the device cut off; a running queue is left as it is. Returns how many requests
        were in flight for it.
        """
        n: int = await self.poller.command(_cmd_fail, cython.address(self.q), before_ns, code)
        return n

    async def drain(self) -> None:
        """Return when no I/O is in flight or waiting. The caller sees to a deadline; fail() ends it too."""
        await self.poller.command(_cmd_drain, cython.address(self.q))

    def counters(self) -> QueueCounters:
        q: IoQueuePtr = cython.address(self.q)
        return QueueCounters(
            self.index,
            q.vq.size,
            q.n_in_flight,
            vd_relaxed_u64(cython.address(q.submitted)),
            vd_relaxed_u64(cython.address(q.completed)),
            vd_relaxed_u64(cython.address(q.kicks)),
            vd_relaxed_u64(cython.address(q.source.wakeups)),
            vd_relaxed_u64(cython.address(q.full)),
            self.poller.name,
        )

    def close(self) -> None:
        """Give the ring's memory back. The device is cut off, the queue stopped and empty."""
        if self.address:
            virtq_free(cython.address(self.q.vq))
            self.memory.free(self.address)
            self.memory.free(self.zeroes_address)
            self.address = 0

    def __dealloc__(self) -> None:
        free(self.q.slots)
        free(self.q.segs)
        free(self.q.vq.next)
        free(self.q.vq.chain)
        free(self.q.vq.slot_of)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _announced(m: MessagePtr, p: PollerPtr) -> cython.void:
    """Marks an event that was not sent yet; the control plane's mailbox does not run messages."""


class Routes:
    """Which queue serves which channel of a bdev. The channels keep it, and it the queues: an I/O that another poller
    hands over finds its queue, however late.

    at_once: how many requests the bdev's unit takes at once, 0: any number. Each queue has its share of them, so that
    none has to ask another; with more queues than that, those at the end don't serve the unit.
    """

    routes: RoutePtr
    shares: UnitSharePtr
    count: cython.int
    queues: list[RequestQueue]

    def __init__(self, channels: BdevChannels, queues: list[RequestQueue], at_once: int = 0) -> None:
        i: cython.int
        self.queues = queues[: at_once or None]
        channels.served_by = self
        self.count = channels.count
        self.routes = cython.cast(RoutePtr, calloc(self.count, cython.sizeof(self.routes[0])))
        if self.routes == cython.NULL:
            raise MemoryError
        if at_once:
            self._share(channels, at_once)
        for i in range(self.count):
            self._connect(channels, i)

    def _share(self, channels: BdevChannels, at_once: int) -> None:
        k: cython.int
        n: cython.int = len(self.queues)
        queue: RequestQueue
        limits = [at_once // n + (k < at_once % n) for k in range(n)]
        for k in range(n):
            queue = self.queues[k]
            queue.q.number = k
        if all(limits[k] >= self.queues[k].size for k in range(n)):
            return
        self.shares = cython.cast(UnitSharePtr, calloc(n, cython.sizeof(self.shares[0])))
        if self.shares == cython.NULL:
            raise MemoryError
        for k in range(n):
            self.shares[k].limit = limits[k]
        channels.core.shares = self.shares

    def _connect(self, channels: BdevChannels, i: cython.int) -> None:
        k: cython.int
        n: cython.int = len(self.queues)
        r: RoutePtr = cython.address(self.routes[i])
        queue: RequestQueue
        r.local = cython.cast(IoQueueArray, calloc(n, cython.sizeof(IoQueuePtr)))
        if r.local == cython.NULL:
            raise MemoryError
        for k in range(n):
            queue = self.queues[k]
            if queue.poller is channels.pollers[i]:
                r.local[r.n_local] = cython.address(queue.q)
                r.n_local += 1
        queue = self.queues[i % n]
        r.remote = cython.address(queue.q)
        channels.connect(i, _submit_local if r.n_local else _submit_remote, r)

    def __dealloc__(self) -> None:
        i: cython.int
        if self.routes != cython.NULL:
            for i in range(self.count):
                free(self.routes[i].local)
            free(self.routes)
        free(self.shares)
