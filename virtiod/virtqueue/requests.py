"""A controller's request queue: carries bdev I/O to a virtqueue and back, whatever the kind of device.

An I/O becomes one or more pieces, each within the device's limits; a piece takes a slot, a slot a chain on the ring.
When slots or descriptors run out, I/Os wait in order. Slots are private and are the truth: after the device was down
its ring is emptied and every slot in use is put on it again; nothing is both lost and unanswered.

All of this runs on the poller that owns the queue. Channels of other pollers hand their I/O over as messages.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EBUSY, EINVAL, ENODEV, ENOSPC, EPROTO, ESHUTDOWN, ETIMEDOUT
from cython.cimports.libc.stdint import UINT64_MAX, uint16_t, uint32_t, uint64_t
from cython.cimports.virtiod.bdev import cache, channel, kept, rewind
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import (
    BdevCorePtr,
    ChannelPtr,
    CommandPtr,
    IoFlag,
    IoPtr,
    MessagePtr,
    Op,
    PollerPtr,
    SourcePtr,
    UnitSharePtr,
)
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.virtqueue import lines, queue, segments
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, Phase, RoutePtr, SlotPtr

BATCH = cython.declare(cython.int, 256)  # completions taken in one round

# ---- pieces --------------------------------------------------------------------------------------


def _piece_limit(io: IoPtr) -> uint64_t:
    """The most bytes of io that one request may carry."""
    b: BdevCorePtr = io.channel.bdev
    if io.op == Op.UNMAP:
        return b.max_unmap
    if io.op == Op.WRITE_ZEROES and (b.native >> Op.WRITE_ZEROES) & 1:
        return b.max_write_zeroes
    return b.max_transfer


def _put(q: IoQueuePtr, slot: uint32_t, limit: uint64_t) -> cython.int:
    """Put a slot on the ring; its length becomes what fits. 0 or -ENOSPC."""
    ret: cython.int = _build(q, slot, limit)
    if ret == 0:
        q.slots[slot].since = q.poller.now
        q.source.dirty = 1
    return ret


def _build(q: IoQueuePtr, slot: uint32_t, limit: uint64_t) -> cython.int:
    s: SlotPtr = address(q.slots[slot])
    io: IoPtr = s.io
    n: uint32_t = 0
    if s.kind == queue.KIND_CONTROL:
        return q.ops.build(q, slot, 0)
    if s.kind == Op.READ or s.kind == Op.WRITE:
        if io.iovcnt == 1 and io.op != Op.WRITE_ZEROES and limit <= io.channel.bdev.max_segment and q.pages == NULL:
            q.segs[queue.DATA_SEG].addr = cast(uint64_t, io.iov[0].iov_base) + s.iov_offset + q.delta
            q.segs[queue.DATA_SEG].len = cast(uint32_t, limit)
            s.length = limit
            n = 1
        else:
            n = segments.gather(q, io, s, limit)
    else:
        s.length = limit
    if s.length == 0 and s.kind != Op.FLUSH:
        return -EINVAL  # the device's segments, or the I/O's, can't hold a whole block
    return q.ops.build(q, slot, n)


def _hand_piece(q: IoQueuePtr, io: IoPtr) -> cython.bint:
    """Hands the next piece of io to the device; false if it has to wait."""
    ret: cython.int
    share: UnitSharePtr = io.channel.bdev.shares
    slot: uint32_t
    if share != NULL and lines.unit_full(q, io):
        return False
    slot = _take_slot(q)
    if slot == queue.NO_SLOT:
        return False
    q.slots[slot].command = NULL
    ret = _put_next(q, slot, io)
    if ret < 0:
        _free_slot(q, slot)
        if ret == -EINVAL:
            io.status = ret
        return ret == -EINVAL
    if share != NULL:
        share[q.number].taken += not io.placed
        io.placed = 0
    io.pieces += 1
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _put_next(q: IoQueuePtr, slot: uint32_t, io: IoPtr) -> cython.int:
    """Put as much of io on the ring, from its cursor on, as one request can carry. 0, -ENOSPC or -EINVAL."""
    s: SlotPtr = address(q.slots[slot])
    limit: uint64_t = io.length - io.cursor
    ret: cython.int
    s.io = io
    s.kind = io.op
    s.offset = io.offset + io.cursor
    s.iov_index = io.iov_index
    s.iov_offset = io.iov_offset
    if io.phase == Phase.FUA:
        s.kind = Op.FLUSH
    elif io.op == Op.WRITE_ZEROES and not (io.channel.bdev.native >> Op.WRITE_ZEROES) & 1:
        s.kind = Op.WRITE
    if s.kind != Op.FLUSH and limit > _piece_limit(io):
        limit = _piece_limit(io)
    ret = _put(q, slot, limit)
    if ret < 0:
        return ret
    q.submitted += 1
    if s.kind == Op.READ or s.kind == Op.WRITE:
        _skip(io, s.length)
    io.cursor += s.length
    return 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _skip(io: IoPtr, n: uint64_t) -> cython.void:
    """Moves the I/O's place in its iov by n bytes."""
    left: uint64_t
    if io.op == Op.WRITE_ZEROES:
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
    """Hands over all that is left of io; false if it has to wait."""
    if io.phase == Phase.FUA:
        if not _hand_piece(q, io):
            return False
        io.phase = Phase.FUA_SENT
        return True
    if io.op == Op.FLUSH:
        # Not asked before: while the device is down, what is kept was not written again yet.
        if cache.flush_reaches(io.channel.bdev) and not _hand_piece(q, io):
            return False
    else:
        while io.cursor < io.length and not io.status:
            if not _hand_piece(q, io):
                return False
    io.phase = Phase.HANDED
    return True


def _finish(q: IoQueuePtr, io: IoPtr) -> None:
    """Completes io, whose pieces have all completed. A FUA write is not done before its flush is."""
    if (
        io.phase == Phase.HANDED
        and io.flags & (IoFlag.FUA | IoFlag.THROUGH)
        and not io.status
        and kept.flush_follows(io)
    ):
        io.phase = Phase.FUA
        io.mark = atomics.load_u64(address(io.channel.bdev.acknowledged))
        if _must_wait(q) or not _advance(q, io):
            _wait(q, io)
        return
    channel.finish(io, io.status, q.poller)


# ---- slots and waiting ---------------------------------------------------------------------------


def _take_slot(q: IoQueuePtr) -> uint32_t:
    slot: uint16_t = q.free_slot
    if slot != queue.NO_SLOT:
        q.free_slot = q.slots[slot].next
        q.slots[slot].used = 1
        q.slots[slot].tries = 0
        q.n_in_flight += 1
    return slot


def _free_slot(q: IoQueuePtr, slot: uint32_t) -> None:
    q.slots[slot].used = 0
    q.slots[slot].io = NULL
    if q.slots[slot].due:
        q.slots[slot].due = 0
        q.n_retry -= 1
        if q.n_retry == 0:
            q.short_of_room = 0
    q.slots[slot].next = q.free_slot
    q.free_slot = cast(uint16_t, slot)
    q.n_in_flight -= 1


def take_back(q: IoQueuePtr, slot: uint32_t) -> None:
    """An I/O's request is not with the device any more: it ended, or is to be made again."""
    io: IoPtr = q.slots[slot].io
    _free_slot(q, slot)
    q.completed += 1
    lines.give_place(q, io)
    io.pieces -= 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _must_wait(q: IoQueuePtr) -> cython.bint:
    """Whether others come before an I/O that is new, or none may be sent."""
    return q.waiting != NULL or q.stopped or q.short_of_room


def begin_again(q: IoQueuePtr, io: IoPtr) -> None:
    waits: cython.bint = io.phase == Phase.HANDING or io.phase == Phase.FUA  # in a line already
    rewind.rewind(io)
    if not waits:
        lines.go_first(q, io)


def _wait(q: IoQueuePtr, io: IoPtr) -> None:
    """Queues the I/O until there is room for it."""
    q.full += 1
    lines.line_up(q, io)


def serve_waiting(q: IoQueuePtr) -> None:
    """Hands over waiting I/O, in order, until there is no room. I/O that only lacks a place in its unit is skipped."""
    io: IoPtr
    handed: cython.bint
    while q.waiting != NULL and not q.stopped and not q.short_of_room:
        io = q.waiting
        handed = _advance(q, io)
        if not handed and not lines.unit_full(q, io):
            return
        q.waiting = cast(IoPtr, io.msg.next)
        if not handed:
            lines.wait_for_unit(address(io.channel.bdev.shares[q.number]), io)
            continue
        lines.leave_place(q, io)
        if io.pieces == 0:
            _finish(q, io)


# ---- requests ------------------------------------------------------------------------------------


def submit(q: IoQueuePtr, io: IoPtr) -> None:
    """Starts an I/O on the queue's own poller."""
    if q.failed:
        _end_unsent(q, io, -cast(cython.int, q.failed))
        return
    if _must_wait(q) or not _advance(q, io):
        _wait(q, io)
    elif io.pieces == 0:
        _end_unsent(q, io, io.status)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _end_unsent(q: IoQueuePtr, io: IoPtr, status: cython.int) -> cython.void:
    """Completes an I/O that the device never sees; not inside its own channel.submit."""
    if io.channel.poller == q.poller:
        rounds.defer(q.poller, io, status)
    else:
        channel.finish(io, status, q.poller)


def command(q: IoQueuePtr, c: CommandPtr) -> cython.int:
    """Starts a control command: ops.build() sees queue.KIND_CONTROL, and the future gets what ops.result() returns."""
    slot: uint32_t
    ret: cython.int
    if q.failed or (q.stopped and not q.held):
        return -ENODEV
    slot = _take_any_slot(q)
    if slot == queue.NO_SLOT:
        return -EBUSY
    q.slots[slot].io = NULL
    q.slots[slot].command = c
    q.slots[slot].kind = queue.KIND_CONTROL
    ret = _put(q, slot, 0)
    if ret < 0:
        _free_slot(q, slot)
        return ret
    q.submitted += 1
    q.n_commands += 1
    return 0


def repeat(q: IoQueuePtr, c: CommandPtr, io: IoPtr) -> cython.int:
    """Hand the next piece of a kept write to a device that came back, or was reset, while all other I/O of its disk is
    held; the future gets its status. It takes no place in its unit: nothing else has reached that."""
    slot: uint32_t
    ret: cython.int
    if q.failed or (q.stopped and not q.held):
        return -ESHUTDOWN
    slot = _take_any_slot(q)
    if slot == queue.NO_SLOT:
        return -EBUSY
    q.slots[slot].command = c
    ret = _put_next(q, slot, io)
    if ret < 0:
        _free_slot(q, slot)
        return -EBUSY if ret == -ENOSPC else ret
    q.n_commands += 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take_any_slot(q: IoQueuePtr) -> uint32_t:
    """The spare one, if there is no other."""
    if q.free_slot == queue.NO_SLOT:
        q.free_slot = q.spare
        q.spare = queue.NO_SLOT
    return _take_slot(q)


def complete(q: IoQueuePtr, slot: uint32_t, status: cython.int) -> None:
    s: SlotPtr = address(q.slots[slot])
    io: IoPtr = s.io
    c: CommandPtr = s.command
    if c != NULL:
        _free_slot(q, slot)
        q.completed += 1
        q.n_commands -= 1
        if q.spare == queue.NO_SLOT:
            q.spare = q.free_slot  # the one that was just freed
            q.free_slot = q.slots[q.spare].next
            q.slots[q.spare].next = queue.NO_SLOT
        rounds.answer(c, status)
        return
    take_back(q, slot)
    if status and not io.status:
        io.status = status
    if io.pieces == 0 and io.phase != Phase.HANDING and io.phase != Phase.FUA:
        if io.again and not io.status:
            begin_again(q, io)
        else:
            _finish(q, io)


def _postpone(q: IoQueuePtr, slot: uint32_t) -> None:
    """Keeps the request until the slot's due: the device wants it again then."""
    if q.n_retry == 0 or q.slots[slot].due < q.retry_at:
        q.retry_at = q.slots[slot].due
    q.n_retry += 1


def resubmit(q: IoQueuePtr, slot: uint32_t) -> None:
    """Put what is in use on an empty ring, or have it wait for descriptors: what waited to be retried had none."""
    s: SlotPtr = address(q.slots[slot])
    if s.due or q.short_of_room or _put(q, slot, s.length):
        if not s.due:
            q.n_retry += 1
        s.due = q.poller.now
        q.retry_at = q.poller.now
        q.short_of_room = 1


def _retry(q: IoQueuePtr, now: uint64_t) -> cython.int:
    """Put on the ring again what is due. While some of it finds no room, nothing else is put there."""
    i: uint32_t
    n: cython.int = 0
    s: SlotPtr
    at: uint64_t = UINT64_MAX
    q.short_of_room = 0
    for i in range(q.vq.size):
        s = address(q.slots[i])
        if s.due == 0 or (q.held and s.command == NULL):  # I/O waits for the release
            continue
        if s.due <= now and not q.short_of_room:
            if s.command == NULL and s.io.again:  # not as it was: the unit was reset
                _retry_from_start(q, i)
                n += 1
                continue
            if _put(q, i, s.length) == 0:
                s.due = 0
                q.n_retry -= 1
                n += 1
                continue
            q.short_of_room = 1  # what is on the ring has the descriptors, and gives them back
        if s.due < at:
            at = s.due
    q.retry_at = at
    return n


def _retry_from_start(q: IoQueuePtr, slot: uint32_t) -> None:
    io: IoPtr = q.slots[slot].io
    take_back(q, slot)
    if io.pieces == 0:
        begin_again(q, io)


def drained(q: IoQueuePtr) -> cython.bint:
    return q.n_in_flight == q.n_commands and q.waiting == NULL


def check_drained(q: IoQueuePtr) -> None:
    c: CommandPtr = q.drain
    after: CommandPtr
    if drained(q):
        q.drain = NULL
        while c != NULL:
            after = cast(CommandPtr, c.msg.next)
            rounds.answer(c, 0)
            c = after


def poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: IoQueuePtr = cast(IoQueuePtr, s)
    n: cython.int = 0
    slot: cython.int
    status: cython.int
    written: uint32_t = 0
    while n < BATCH:
        slot = q.vq.ops.pop(address(q.vq), address(written))
        if slot < 0:
            if slot == -EPROTO and q.event.run != NULL:
                q.event.run = NULL
                rounds.post(q.poller.control, address(q.event))
            break
        if n == 0:
            q.poller.now = clock.now_ns()  # after the answer: a poller that was preempted would count too short a time
        status = q.ops.result(q, slot, written)
        if q.slots[slot].io != NULL and status != -ETIMEDOUT:  # which an aborted one ends with: the device did not
            q.progress_ns = q.poller.now
            if q.slots[slot].since > q.newest_ns:
                q.newest_ns = q.slots[slot].since
        if status == queue.RESULT_RETRY:
            _postpone(q, slot)
        else:
            complete(q, slot, status)
        n += 1
    if q.n_retry and now >= q.retry_at:
        n += _retry(q, now)
    if n:
        q.source.nap_ns = 0
        if q.waiting != NULL:
            serve_waiting(q)
        if q.drain != NULL:
            check_drained(q)
    return n


# ---- what channels call --------------------------------------------------------------------------


def submit_local(ch: ChannelPtr, io: IoPtr) -> None:
    r: RoutePtr = cast(RoutePtr, ch.device)
    r.turn = r.turn + 1 if r.turn + 1 < r.n_local else 0
    submit(r.local[r.turn], io)


def submit_remote(ch: ChannelPtr, io: IoPtr) -> None:
    r: RoutePtr = cast(RoutePtr, ch.device)
    channel.forward(io, _arrive, r.remote.poller)


def _arrive(m: MessagePtr, p: PollerPtr) -> None:
    io: IoPtr = cast(IoPtr, m)
    r: RoutePtr = cast(RoutePtr, io.channel.device)
    submit(r.remote, io)
