"""What an NBD connection receives: its rounds, requests from the socket, and the I/Os that they become."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EAGAIN, EINTR, errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memmove
from cython.cimports.virtiod.bdev import channel
from cython.cimports.virtiod.core import atomics, linux
from cython.cimports.virtiod.core.types import CharPtr, IoFlag, IoPtr, Op, PollerPtr, ReadyFlag, SourcePtr, iovec
from cython.cimports.virtiod.exports.nbd import request, send, slots, state
from cython.cimports.virtiod.exports.nbd.request import Cmd, CmdFlag, Fail, Request, RequestPtr
from cython.cimports.virtiod.exports.nbd.state import RECEIVE_SEGMENTS, ConnPtr, End, SlotPtr, State
from cython.cimports.virtiod.poller import buffers, rounds

LONG_WRITE = cython.declare(uint32_t, 65536)
RECEIVE_AHEAD = cython.declare(uint32_t, 4096)  # after a long payload: copying its data costs more than a second recv
HOT_NS = cython.declare(uint64_t, 50_000)
HOT_STREAK = cython.declare(cython.uint, 8)
TRY_NS = cython.declare(uint64_t, 300)

# ---- a round -------------------------------------------------------------------------------------


def poll(s: SourcePtr, now: uint64_t) -> cython.int:
    c: ConnPtr = cast(ConnPtr, s)
    work: cython.int = s.dirty
    ready: cython.uint = s.ready
    s.ready = 0
    if c.blocked and ready & ReadyFlag.OUT:
        c.blocked = 0
        s.dirty = 1
        work = 1
    if ready & ReadyFlag.GONE and (c.paused or c.state != State.RUNNING):
        send.die(c, End.LOST)
    if (c.state != State.RUNNING or c.stopping) and _idle(c):
        _bury(c)
        return 0  # s may be freed already
    if c.state == State.RUNNING and c.paused:
        work += _parse(c)
        if not c.paused and c.state == State.RUNNING and not c.hot:
            rounds.want(s, s.wanted | ReadyFlag.IN)
    if (
        c.state == State.RUNNING
        and not c.paused
        and (ready & (ReadyFlag.IN | ReadyFlag.GONE) or (c.hot and now >= c.next_try))
    ):
        work += _receive(c)
    return work


def arm(s: SourcePtr) -> cython.bint:
    """Arms the socket. Buffers are freed in rounds only, and each round is followed by another poll: none is missed."""
    c: ConnPtr = cast(ConnPtr, s)
    wanted: cython.uint = ReadyFlag.OUT if c.blocked else 0
    if c.state == State.RUNNING and c.paused and _parse(c):
        return True
    if s.dirty or ((c.state != State.RUNNING or c.stopping) and _idle(c)):
        return True
    if c.state == State.RUNNING and not c.paused:
        wanted |= ReadyFlag.IN
    c.hot = 0
    c.streak = 0
    rounds.want(s, wanted)
    return False


def tick(s: SourcePtr, now: uint64_t) -> None:
    if slots.stalled(cast(ConnPtr, s), now):
        send.die(cast(ConnPtr, s), End.STALLED)


def _idle(c: ConnPtr) -> cython.bint:
    return c.in_flight == 0 and c.out == NULL


def _drain(c: ConnPtr, end: cython.uint) -> None:
    """Takes no more requests; closes the socket when those in flight are answered."""
    c.state = State.DRAINING
    c.end = end


def _bury(c: ConnPtr) -> None:
    """Gives a connection that has ended to the control plane, which may free it at once."""
    p: PollerPtr = c.source.poller
    send.die(c, End.STOPPED)
    rounds.remove_source(p, address(c.source))
    c.state = State.GONE
    rounds.post(p.control, address(c.ended))


# ---- receiving -----------------------------------------------------------------------------------


def _receive(c: ConnPtr) -> cython.int:
    """Receives once: the rest of the payload that is arriving, then requests."""
    iov: iovec[RECEIVE_SEGMENTS]
    n: cython.int = 0
    offset: uint64_t = c.fill_offset
    index: uint32_t = c.fill_index
    left: uint64_t = c.fill_left if c.filling != NULL else 0
    got: cython.Py_ssize_t
    if c.head:
        memmove(c.buffer, c.buffer + c.head, c.tail - c.head)
        c.tail -= c.head
        c.head = 0
    while left and n < RECEIVE_SEGMENTS - 1:
        iov[n].iov_base = cast(CharPtr, c.filling.io.iov[index].iov_base) + offset
        iov[n].iov_len = c.filling.io.iov[index].iov_len - offset
        left -= iov[n].iov_len
        offset = 0
        index += 1
        n += 1
    if not left:
        iov[n].iov_base = c.buffer + c.tail
        iov[n].iov_len = RECEIVE_AHEAD if c.writes_long and not c.skip else state.RECEIVE_SIZE - c.tail
        n += 1
    got = linux.recv(c.fd, iov[0].iov_base, iov[0].iov_len, 0) if n == 1 else linux.readv(c.fd, iov, n)
    if got <= 0:
        if got == 0:
            _drain(c, End.EOF)
        elif errno != EAGAIN and errno != EINTR:
            send.die(c, End.LOST)
        else:
            _nothing_came(c)
        return 0
    _something_came(c)
    c.received += got
    if c.filling != NULL:
        left = c.fill_left if cast(uint64_t, got) > c.fill_left else got
        got -= left
        _filled(c, left)
    c.tail += got
    return 1 + _parse(c)


def _something_came(c: ConnPtr) -> None:
    """Makes a busy connection hot: it is tried without epoll, whose wake-ups would make each send slower."""
    now: uint64_t = c.source.poller.now
    if now - c.last_data > HOT_NS:
        c.streak = 0
    elif c.streak < HOT_STREAK:
        c.streak += 1
    c.last_data = now
    if c.streak == HOT_STREAK and not c.hot:
        c.hot = 1
        rounds.want(address(c.source), c.source.wanted & ~ReadyFlag.IN)


def _nothing_came(c: ConnPtr) -> None:
    now: uint64_t = c.source.poller.now
    if not c.hot:
        return
    c.next_try = now + TRY_NS
    if now - c.last_data > HOT_NS:
        c.hot = 0
        c.streak = 0
        rounds.want(address(c.source), c.source.wanted | ReadyFlag.IN)


def _parse(c: ConnPtr) -> cython.int:
    """Begins the requests that have arrived, until one has to wait (paused). Returns how many were begun."""
    r: Request
    n: cython.int = 0
    skipped: uint64_t
    c.paused = 0
    while c.state == State.RUNNING:
        if c.skip:
            skipped = c.tail - c.head if c.skip > c.tail - c.head else c.skip
            c.skip -= skipped
            c.head += cast(uint32_t, skipped)
            if c.skip:
                break
            send.answer(c.refused, c.refusal)
        elif c.filling != NULL:
            _fill_from_buffer(c)
            if c.filling != NULL:
                break
        elif c.tail - c.head < request.REQUEST_SIZE:
            break
        elif not request.decode(c.buffer + c.head, address(r)):
            _drain(c, End.MAGIC)
        elif _begin(c, address(r)):
            c.head += request.REQUEST_SIZE
            n += 1
        else:
            c.paused = 1
            break
    return n


# ---- requests ------------------------------------------------------------------------------------


def _begin(c: ConnPtr, r: RequestPtr) -> cython.bint:
    """Starts a request or refuses it; false if it has to wait for a slot or buffers."""
    slot: SlotPtr
    failure: cython.int
    if r.type == Cmd.DISC:
        _drain(c, End.DISCONNECT)
        return True
    if c.n_free == 0:
        return False
    slot = c.free[c.n_free - 1]
    slot.request = r[0]
    c.limits.size = atomics.load_u64(address(c.channel.bdev.size))
    failure = Fail.ENDING if c.stopping else request.check(r, address(c.limits))
    if failure == Fail.NONE and (r.type == Cmd.READ or r.type == Cmd.WRITE):
        if r.length > _capacity(c):
            failure = Fail.MEMORY
        elif not slots.take_buffers(c, slot):
            return False
    if failure != Fail.NONE:
        slots.leave_queue(c)  # it waited for buffers, and what it is judged by has changed since
    c.n_free -= 1
    c.requests += 1
    if failure != Fail.NONE and r.type == Cmd.WRITE and r.length:
        c.skip = r.length  # clients don't expect the reply before they have sent it all
        c.refused = slot
        c.refusal = failure
    elif failure != Fail.NONE:
        send.answer(slot, failure)
    elif r.type == Cmd.WRITE:
        c.filling = slot
        c.fill_index = 0
        c.fill_offset = 0
        c.fill_left = r.length
        c.fill_since = c.source.poller.now
        c.writes_long = r.length >= LONG_WRITE
    elif r.type == Cmd.FLUSH and not (c.channel.bdev.ops >> Op.FLUSH) & 1:
        send.answer(slot, Fail.NONE)
    else:
        _submit(slot)
    return True


def _capacity(c: ConnPtr) -> uint64_t:
    """Bytes of the longest request for which there can be buffers."""
    return buffers.limit(c.share.pool, c.channel.holding)


def _fill_from_buffer(c: ConnPtr) -> None:
    n: uint64_t
    while c.filling != NULL and c.head < c.tail:
        n = c.filling.io.iov[c.fill_index].iov_len - c.fill_offset
        if n > c.tail - c.head:
            n = c.tail - c.head
        # Safety: fill_offset + n is within the segment, head + n within the buffer.
        memcpy(cast(CharPtr, c.filling.io.iov[c.fill_index].iov_base) + c.fill_offset, c.buffer + c.head, n)
        c.head += cast(uint32_t, n)
        _filled(c, n)


def _filled(c: ConnPtr, n: uint64_t) -> None:
    """Counts n more bytes of the payload, which are in place; n is at most fill_left."""
    slot: SlotPtr = c.filling
    c.fill_left -= n
    if c.fill_left == 0:
        c.filling = NULL
        _submit(slot)
        return
    c.fill_offset += n
    while c.fill_offset >= slot.io.iov[c.fill_index].iov_len:
        c.fill_offset -= slot.io.iov[c.fill_index].iov_len
        c.fill_index += 1


def _submit(slot: SlotPtr) -> None:
    io: IoPtr = address(slot.io)
    r: RequestPtr = address(slot.request)
    io.done = send.done
    io.offset = r.offset
    io.length = r.length
    io.iovcnt = slot.n_buffers
    io.flags = 0
    io.losses_seen = address(slot.conn.losses_seen)
    slot.flush_after = 0
    if r.type == Cmd.READ:
        io.op = Op.READ
    elif r.type == Cmd.WRITE:
        io.op = Op.WRITE
        io.flags = IoFlag.HANDS_OVER if slot.conn.hands_over else 0
    elif r.type == Cmd.FLUSH:
        io.op = Op.FLUSH
    elif r.type == Cmd.TRIM:
        io.op = Op.UNMAP
        slot.flush_after = r.flags & CmdFlag.FUA and (slot.conn.channel.bdev.ops >> Op.FLUSH) & 1
    else:
        io.op = Op.WRITE_ZEROES
        if r.flags & CmdFlag.NO_HOLE:
            io.flags |= IoFlag.NO_HOLE
    if r.flags & CmdFlag.FUA:
        io.flags |= IoFlag.FUA
    slot.conn.in_flight += 1
    channel.submit(slot.conn.channel, io)
