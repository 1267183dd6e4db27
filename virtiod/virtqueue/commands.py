"""A queue's commands, on its poller: run, be still, give I/O up, tell when it is empty, ask the device."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint32_t, uint64_t
from cython.cimports.virtiod.bdev.channel import io_return
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    CommandPtr,
    IoPtr,
    MessagePtr,
    PollerPtr,
    UnitSharePtr,
)
from cython.cimports.virtiod.poller.rounds import poller_add_source, poller_remove_source
from cython.cimports.virtiod.virtqueue.lines import leave_place, line_up
from cython.cimports.virtiod.virtqueue.requests import (
    KIND_CONTROL,
    PHASE_FUA_SENT,
    IoQueuePtr,
    ioqueue_build,
    ioqueue_check_drained,
    ioqueue_command,
    ioqueue_complete,
    ioqueue_drained,
    ioqueue_serve_waiting,
)


def queue_start(p: PollerPtr, c: CommandPtr) -> int64_t:
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
            ioqueue_build(q, i, 0)
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
            ioqueue_build(q, i, q.slots[i].length)
            q.source.dirty = 1
    q.held = 0
    q.stopped = 0
    ioqueue_serve_waiting(q)
    ioqueue_check_drained(q)


def queue_release(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    if q.held:
        _release(q)
    return 0


def queue_stop(p: PollerPtr, c: CommandPtr) -> int64_t:
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
            line_up(q, io)
        else:
            io.phase = PHASE_FUA_SENT
            if not io.status:
                io.status = status
            leave_place(q, io)
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


def queue_fail(p: PollerPtr, c: CommandPtr) -> int64_t:
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
            ioqueue_complete(q, i, status)
            n += 1
    ioqueue_check_drained(q)
    return n


def queue_drain(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    if ioqueue_drained(q):
        return 0
    c.msg.next = cython.cast(MessagePtr, q.drain)
    q.drain = c
    return COMMAND_LATER


def queue_request(p: PollerPtr, c: CommandPtr) -> int64_t:
    ret: cython.int = ioqueue_command(cython.cast(IoQueuePtr, c.ctx), c)
    return ret if ret else COMMAND_LATER
