"""A queue's commands, on its poller: start, release, stop, fail I/O, tell when it is empty, send a control command."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EAGAIN, ESHUTDOWN, ETIMEDOUT
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint32_t, uint64_t
from cython.cimports.virtiod.bdev import cache, channel
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    EPOCH_OPEN,
    BdevCorePtr,
    CommandPtr,
    IoPtr,
    MessagePtr,
    Op,
    PollerPtr,
    UnitSharePtr,
)
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.virtqueue import lines, queue, requests
from cython.cimports.virtiod.virtqueue.layout import Virtq, VirtqPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, Phase, SlotPtr

# ---- a device that is lost, and comes back ------------------------------------------------------


def _note_lost(q: IoQueuePtr) -> None:
    """What its cache held is gone, with what it had answered of I/Os that are not complete: writes begin again."""
    i: uint32_t
    io: IoPtr
    for i in range(q.vq.size):
        if not q.slots[i].used or q.slots[i].io == NULL:
            continue
        io = q.slots[i].io
        if q.slots[i].command != NULL:
            if q.slots[i].due == 0:
                io.epoch = EPOCH_OPEN
            requests.complete(q, i, -ESHUTDOWN)  # who has it written again begins again, too
            continue
        io.again |= _is_cached(io)
        _note_unit(q, io)
    _note_line(q, q.waiting, NULL)
    io = q.waiting
    while io != NULL:
        _note_unit(q, io)
        io = cast(IoPtr, io.msg.next)


def _note_unit(q: IoQueuePtr, io: IoPtr) -> None:
    """What waits for a place in io's unit."""
    if io.channel.bdev.shares != NULL:
        _note_line(q, io.channel.bdev.shares[q.number].waiting, NULL)


def _note_line(q: IoQueuePtr, io: IoPtr, b: BdevCorePtr) -> None:
    """Of a line that begins with io, for one bdev or all."""
    while io != NULL:
        if _is_cached(io) if b == NULL else (io.channel.bdev == b and _writes(io)):
            io.again = io.pieces > 0
            if not io.pieces:
                requests.begin_again(q, io)
        io = cast(IoPtr, io.msg.next)


def _is_cached(io: IoPtr) -> cython.bint:
    """What it writes goes to a volatile cache first."""
    return _writes(io) and cache.is_volatile(io.channel.bdev)


def _writes(io: IoPtr) -> cython.bint:
    return io.op != Op.READ and io.op != Op.FLUSH


def _submit_again(q: IoQueuePtr, slot: uint32_t) -> None:
    """Put a request on the ring again as it was; or, when it was the last one of an I/O that begins again, put that
    first in the line."""
    io: IoPtr = q.slots[slot].io
    if not io.again:
        requests.resubmit(q, slot)
        return
    requests.take_back(q, slot)
    if io.pieces == 0:
        requests.begin_again(q, io)


# ---- commands -----------------------------------------------------------------------------------


def start(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Puts the requests in flight on the empty ring again, which the device runs, and polls it. arg: I/O is held."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    i: uint32_t
    ret: cython.int = rounds.add_source(p, address(q.source))
    if ret:
        return ret
    for i in range(q.vq.size):
        if q.slots[i].used and q.slots[i].kind == queue.KIND_CONTROL:
            requests.resubmit(q, i)
    q.epoch = 0
    q.given = 0
    q.held = 1
    if not c.arg:
        _release(q)
    return 0


def _release(q: IoQueuePtr) -> None:
    """Puts the I/O that is in flight on the ring again, and then the I/O that waits."""
    i: uint32_t
    for i in range(q.vq.size):
        if _has_io(q, i):
            _submit_again(q, i)
    q.given = 1
    q.held = 0
    q.stopped = 0
    requests.serve_waiting(q)
    requests.check_drained(q)


def release(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    if q.held:
        _release(q)
    return 0


def stop(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Stops polling and submitting: the device is down."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    if q.held or not q.stopped:
        q.held = 0
        q.stopped = 1
        rounds.remove_source(p, address(q.source))
        _note_lost(q)
    return 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _has_io(q: IoQueuePtr, slot: uint32_t) -> cython.bint:
    """Or it is free, or the control plane's."""
    return q.slots[slot].used and q.slots[slot].command == NULL


def _give_up(io: IoPtr, status: cython.int) -> None:
    """It needs no more of the device than its pieces back."""
    io.phase = Phase.OVER
    if not io.status:
        io.status = status


def unit_reset(p: PollerPtr, c: CommandPtr) -> int64_t:
    """What the cache of a unit (out: its BdevCore) held is gone, as in _note_lost(). Its I/O is held.

    All that it writes begins again: its cache may have another mode by now. Returns how many of its requests the device
    may still work on, probes apart.
    """
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    b: BdevCorePtr = cast(BdevCorePtr, c.out)
    s: SlotPtr
    i: uint32_t
    n: int64_t = 0
    for i in range(q.vq.size):
        s = address(q.slots[i])
        if not s.used or s.io == NULL or s.io.channel.bdev != b:
            continue
        n += s.command != NULL or not (s.probe or s.due)
        if s.command == NULL:
            s.io.again |= _writes(s.io)
    _note_line(q, q.waiting, b)
    if b.shares != NULL:
        _note_line(q, b.shares[q.number].waiting, b)
    return n


def _fail_line(q: IoQueuePtr, io: IoPtr, before: uint64_t, status: cython.int) -> None:
    """End the I/Os of a line that was taken away, if they were submitted before or are given up, and nothing of them is
    in flight."""
    after: IoPtr
    while io != NULL:
        after = cast(IoPtr, io.msg.next)
        if io.submitted_ns >= before and io.phase != Phase.OVER:
            lines.line_up(q, io)
        else:
            _give_up(io, status)
            lines.leave_place(q, io)
            if io.pieces == 0:
                channel.finish(io, io.status, q.poller)
        io = after


def _fail_for_unit(q: IoQueuePtr, io: IoPtr, before: uint64_t, status: cython.int) -> None:
    """Does the same for the I/Os that wait for a place in io's unit."""
    s: UnitSharePtr = io.channel.bdev.shares
    line: IoPtr
    if s != NULL:
        line = s[q.number].waiting
        s[q.number].waiting = NULL
        _fail_line(q, line, before, status)


def _fail_waiting(q: IoQueuePtr, before: uint64_t, status: cython.int) -> None:
    """Ends the waiting I/Os that were submitted before `before` (ns). A unit that I/Os wait for has requests in flight,
    or keeps places for I/Os in the queue's line."""
    io: IoPtr
    i: uint32_t
    for i in range(q.vq.size):
        if _has_io(q, i):
            _fail_for_unit(q, q.slots[i].io, before, status)
    io = q.waiting
    while io != NULL:
        _fail_for_unit(q, io, before, status)
        io = cast(IoPtr, io.msg.next)
    io = q.waiting
    q.waiting = NULL
    _fail_line(q, io, before, status)


def _end_given_up(q: IoQueuePtr, status: cython.int) -> int64_t:
    """End the requests of the I/Os that are given up; returns how many there were."""
    i: uint32_t
    n: int64_t = 0
    for i in range(q.vq.size):
        if _has_io(q, i) and q.slots[i].io.phase == Phase.OVER:
            _end(q, i, status)
            n += 1
    requests.check_drained(q)
    return n


def _end(q: IoQueuePtr, slot: uint32_t, status: cython.int) -> None:
    """End a request without its answer. What is not on the ring is not with the device."""
    if q.slots[slot].due == 0 and q.epoch:
        q.slots[slot].io.epoch = q.epoch
    requests.complete(q, slot, status)


def fail(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Ends the I/Os submitted before arg (ns) with errno arg2; arg 0: all of them, and all later ones.

    While the queue runs it ends nothing, as the device may still answer; while it is held, no control commands.
    Returns how many requests were in flight for them.
    """
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    before: uint64_t = cast(uint64_t, c.arg) if c.arg else UINT64_MAX
    status: cython.int = -cast(cython.int, c.arg2)
    i: uint32_t
    n: int64_t = 0
    if not q.stopped:
        return 0
    if c.arg == 0:
        q.failed = cast(cython.uchar, c.arg2)
    _fail_waiting(q, before, status)
    for i in range(q.vq.size):
        if not q.slots[i].used:
            continue
        if q.slots[i].command != NULL:
            if not q.held:
                requests.complete(q, i, status)
                n += 1
        elif q.slots[i].io.submitted_ns < before:
            _give_up(q.slots[i].io, status)
    return n + _end_given_up(q, status)


def expire(p: PollerPtr, c: CommandPtr) -> int64_t:
    """End with ETIMEDOUT the I/Os of which the device was given something before arg (ns). The queue is stopped.
    Returns how many requests were in flight for them."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    i: uint32_t
    if not q.stopped:
        return 0
    for i in range(q.vq.size):
        if _has_io(q, i) and q.slots[i].since < cast(uint64_t, c.arg):
            _give_up(q.slots[i].io, -ETIMEDOUT)
    _fail_waiting(q, 0, -ETIMEDOUT)
    return _end_given_up(q, -ETIMEDOUT)


def overdue(q: IoQueuePtr, slot: uint32_t, before: uint64_t, timeout: uint64_t) -> cython.bint:
    """A device that answers is alive, however long its line is: it has forgotten what it was given before that time
    (ns) if it has answered nothing since, or something that it was given a whole time-out (ns) later."""
    s: SlotPtr = address(q.slots[slot])
    if not _has_io(q, slot) or s.due or s.since >= before:
        return False
    return q.progress_ns < before or (q.newest_ns > s.since and q.newest_ns - s.since >= timeout)


def count_overdue(p: PollerPtr, c: CommandPtr) -> int64_t:
    """How many requests the device has forgotten. arg, arg2: as overdue()."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    i: uint32_t
    n: int64_t = 0
    for i in range(q.vq.size):
        n += overdue(q, i, cast(uint64_t, c.arg), cast(uint64_t, c.arg2))
    return 0 if q.stopped else n


def doubt(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The device of session arg may still use what it was given and is in flight; 0: none may. The queue is stopped."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    if q.stopped:
        q.epoch = cast(uint64_t, c.arg) if q.given else 0
    return 0


def in_doubt(p: PollerPtr, c: CommandPtr) -> int64_t:
    """How many requests of I/Os a device may still work on. The queue is stopped."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    i: uint32_t
    n: int64_t = 0
    if q.epoch:
        for i in range(q.vq.size):
            n += _has_io(q, i) and q.slots[i].due == 0
    return n


def exchange_ring(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Take the ring at out, of the same size, and leave the old one there. The queue is stopped."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    old: Virtq = q.vq
    q.vq = cast(VirtqPtr, c.out)[0]
    cast(VirtqPtr, c.out)[0] = old
    return 0


def unread(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Whether the device has answered something that nobody took. The queue is stopped: it takes one, or finds the ring
    broken."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    written: uint32_t = 0
    return q.vq.ops.pop(address(q.vq), address(written)) != -EAGAIN


def drain(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    if requests.drained(q):
        return 0
    c.msg.next = cast(MessagePtr, q.drain)
    q.drain = c
    return COMMAND_LATER


def repeat(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The next piece of a kept write, out: its Io."""
    ret: cython.int = requests.repeat(cast(IoQueuePtr, c.ctx), c, cast(IoPtr, c.out))
    return ret if ret else COMMAND_LATER


def request(p: PollerPtr, c: CommandPtr) -> int64_t:
    ret: cython.int = requests.command(cast(IoQueuePtr, c.ctx), c)
    return ret if ret else COMMAND_LATER
