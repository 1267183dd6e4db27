"""What an NBD connection receives: its rounds, requests from the socket, and the I/Os that they become."""

from __future__ import annotations

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memmove
from cython.cimports.virtiod.bdev.channel import channel_submit
from cython.cimports.virtiod.core.atomics import vd_load_u64
from cython.cimports.virtiod.core.linux import readv, recv
from cython.cimports.virtiod.core.types import (
    IO_FUA,
    IO_NO_HOLE,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    READY_GONE,
    READY_IN,
    READY_OUT,
    CharPtr,
    IoPtr,
    PollerPtr,
    SourcePtr,
    iovec,
)
from cython.cimports.virtiod.exports.nbd.buffers import nbd_stalled, nbd_take_buffers
from cython.cimports.virtiod.exports.nbd.request import (
    FAIL_ENDING,
    FAIL_MEMORY,
    FAIL_NONE,
    NBD_CMD_DISC,
    NBD_CMD_FLAG_FUA,
    NBD_CMD_FLAG_NO_HOLE,
    NBD_CMD_FLUSH,
    NBD_CMD_READ,
    NBD_CMD_TRIM,
    NBD_CMD_WRITE,
    NBD_REQUEST_SIZE,
    NbdRequest,
    NbdRequestPtr,
    nbd_check,
    nbd_decode,
)
from cython.cimports.virtiod.exports.nbd.send import nbd_answer, nbd_die, nbd_done
from cython.cimports.virtiod.exports.nbd.state import (
    DRAINING,
    END_DISCONNECT,
    END_EOF,
    END_LOST,
    END_MAGIC,
    END_STALLED,
    END_STOPPED,
    GONE,
    RECEIVE_SEGMENTS,
    RECEIVE_SIZE,
    RUNNING,
    ConnPtr,
    NbdSlotPtr,
    SharePtr,
)
from cython.cimports.virtiod.poller.buffers import LARGE_BUFFER
from cython.cimports.virtiod.poller.rounds import mailbox_push, poller_remove_source, poller_want

LONG_WRITE = cython.declare(uint32_t, 65536)
RECEIVE_AHEAD = cython.declare(uint32_t, 4096)  # behind a long payload: its data is not worth a copy
HOT_NS = cython.declare(uint64_t, 50_000)
HOT_STREAK = cython.declare(cython.uint, 8)
TRY_NS = cython.declare(uint64_t, 300)

# ---- a round -------------------------------------------------------------------------------------


def nbd_poll(s: SourcePtr, now: uint64_t) -> cython.int:
    c: ConnPtr = cython.cast(ConnPtr, s)
    work: cython.int = s.dirty
    ready: cython.uint = s.ready
    s.ready = 0
    if c.blocked and ready & READY_OUT:
        c.blocked = 0
        s.dirty = 1
        work = 1
    if ready & READY_GONE and (c.paused or c.state != RUNNING):
        nbd_die(c, END_LOST)
    if (c.state != RUNNING or c.stopping) and _idle(c):
        _bury(c)
        return 0  # s may be freed already
    if c.state == RUNNING and c.paused:
        work += _parse(c)
        if not c.paused and c.state == RUNNING and not c.hot:
            poller_want(s, s.wanted | READY_IN)
    if c.state == RUNNING and not c.paused and (ready & (READY_IN | READY_GONE) or (c.hot and now >= c.next_try)):
        work += _receive(c)
    return work


def nbd_arm(s: SourcePtr) -> cython.bint:
    """Buffers come free in rounds only, and a round is followed by another look: none is missed here."""
    c: ConnPtr = cython.cast(ConnPtr, s)
    wanted: cython.uint = READY_OUT if c.blocked else 0
    if c.state == RUNNING and c.paused and _parse(c):
        return True
    if s.dirty or ((c.state != RUNNING or c.stopping) and _idle(c)):
        return True
    if c.state == RUNNING and not c.paused:
        wanted |= READY_IN
    c.hot = 0
    c.streak = 0
    poller_want(s, wanted)
    return False


def nbd_tick(s: SourcePtr, now: uint64_t) -> None:
    if nbd_stalled(cython.cast(ConnPtr, s), now):
        nbd_die(cython.cast(ConnPtr, s), END_STALLED)


def _idle(c: ConnPtr) -> cython.bint:
    return c.in_flight == 0 and c.out == cython.NULL


def _drain(c: ConnPtr, end: cython.uint) -> None:
    """No more requests; the socket is closed when those in flight are answered."""
    c.state = DRAINING
    c.end = end


def _bury(c: ConnPtr) -> None:
    """All is done: give the connection to the control plane, which may free it at once."""
    p: PollerPtr = c.source.poller
    nbd_die(c, END_STOPPED)
    poller_remove_source(p, cython.address(c.source))
    c.state = GONE
    mailbox_push(p.control, cython.address(c.ended))


# ---- receiving -----------------------------------------------------------------------------------


def _receive(c: ConnPtr) -> cython.int:
    """One recv: the rest of the payload that is coming, then requests."""
    iov: iovec[RECEIVE_SEGMENTS]
    n: cython.int = 0
    offset: uint64_t = c.fill_offset
    index: uint32_t = c.fill_index
    left: uint64_t = c.fill_left if c.filling != cython.NULL else 0
    got: cython.Py_ssize_t
    if c.head:
        memmove(c.buffer, c.buffer + c.head, c.tail - c.head)
        c.tail -= c.head
        c.head = 0
    while left and n < RECEIVE_SEGMENTS - 1:
        iov[n].iov_base = cython.cast(CharPtr, c.filling.io.iov[index].iov_base) + offset
        iov[n].iov_len = c.filling.io.iov[index].iov_len - offset
        left -= iov[n].iov_len
        offset = 0
        index += 1
        n += 1
    if not left:
        iov[n].iov_base = c.buffer + c.tail
        iov[n].iov_len = RECEIVE_AHEAD if c.writes_long and not c.skip else RECEIVE_SIZE - c.tail
        n += 1
    got = recv(c.fd, iov[0].iov_base, iov[0].iov_len, 0) if n == 1 else readv(c.fd, iov, n)
    if got <= 0:
        if got == 0:
            _drain(c, END_EOF)
        elif errno != EAGAIN and errno != EINTR:
            nbd_die(c, END_LOST)
        else:
            _nothing_came(c)
        return 0
    _something_came(c)
    c.received += got
    if c.filling != cython.NULL:
        left = c.fill_left if cython.cast(uint64_t, got) > c.fill_left else got
        got -= left
        _filled(c, left)
    c.tail += got
    return 1 + _parse(c)


def _something_came(c: ConnPtr) -> None:
    """A busy connection is tried without asking epoll, whose wake-ups would make each send dearer for the client."""
    now: uint64_t = c.source.poller.now
    if now - c.last_data > HOT_NS:
        c.streak = 0
    elif c.streak < HOT_STREAK:
        c.streak += 1
    c.last_data = now
    if c.streak == HOT_STREAK and not c.hot:
        c.hot = 1
        poller_want(cython.address(c.source), c.source.wanted & ~READY_IN)


def _nothing_came(c: ConnPtr) -> None:
    now: uint64_t = c.source.poller.now
    if not c.hot:
        return
    c.next_try = now + TRY_NS
    if now - c.last_data > HOT_NS:
        c.hot = 0
        c.streak = 0
        poller_want(cython.address(c.source), c.source.wanted | READY_IN)


def _parse(c: ConnPtr) -> cython.int:
    """Begin the requests that have come, until one has to wait (paused). Returns how many were begun."""
    r: NbdRequest
    n: cython.int = 0
    skipped: uint64_t
    c.paused = 0
    while c.state == RUNNING:
        if c.skip:
            skipped = c.tail - c.head if c.skip > c.tail - c.head else c.skip
            c.skip -= skipped
            c.head += cython.cast(uint32_t, skipped)
            if c.skip:
                break
            nbd_answer(c.refused, c.refusal)
        elif c.filling != cython.NULL:
            _fill_from_buffer(c)
            if c.filling != cython.NULL:
                break
        elif c.tail - c.head < NBD_REQUEST_SIZE:
            break
        elif not nbd_decode(c.buffer + c.head, cython.address(r)):
            _drain(c, END_MAGIC)
        elif _begin(c, cython.address(r)):
            c.head += NBD_REQUEST_SIZE
            n += 1
        else:
            c.paused = 1
            break
    return n


# ---- requests ------------------------------------------------------------------------------------


def _begin(c: ConnPtr, r: NbdRequestPtr) -> cython.bint:
    """Start a request or refuse it; false if it has to wait for a slot or buffers."""
    slot: NbdSlotPtr
    failure: cython.int
    if r.type == NBD_CMD_DISC:
        _drain(c, END_DISCONNECT)
        return True
    if c.n_free == 0:
        return False
    slot = c.free[c.n_free - 1]
    slot.request = r[0]
    c.limits.size = vd_load_u64(cython.address(c.channel.bdev.size))
    failure = FAIL_ENDING if c.stopping else nbd_check(r, cython.address(c.limits))
    if failure == FAIL_NONE and (r.type == NBD_CMD_READ or r.type == NBD_CMD_WRITE):
        if r.length > _capacity(c.share):
            failure = FAIL_MEMORY
        elif not nbd_take_buffers(c, slot):
            return False
    c.n_free -= 1
    c.requests += 1
    if failure != FAIL_NONE and r.type == NBD_CMD_WRITE and r.length:
        c.skip = r.length  # clients don't expect the reply before they have sent it all
        c.refused = slot
        c.refusal = failure
    elif failure != FAIL_NONE:
        nbd_answer(slot, failure)
    elif r.type == NBD_CMD_WRITE:
        c.filling = slot
        c.fill_index = 0
        c.fill_offset = 0
        c.fill_left = r.length
        c.fill_since = c.source.poller.now
        c.writes_long = r.length >= LONG_WRITE
    elif r.type == NBD_CMD_FLUSH and not (c.channel.bdev.ops >> OP_FLUSH) & 1:
        nbd_answer(slot, FAIL_NONE)
    else:
        _submit(slot)
    return True


def _capacity(share: SharePtr) -> uint64_t:
    """Bytes that can ever be free at once."""
    if share.pool.lost >= share.pool.n_large:
        return 0
    return (share.pool.n_large - share.pool.lost) * LARGE_BUFFER


def _fill_from_buffer(c: ConnPtr) -> None:
    n: uint64_t
    while c.filling != cython.NULL and c.head < c.tail:
        n = c.filling.io.iov[c.fill_index].iov_len - c.fill_offset
        if n > c.tail - c.head:
            n = c.tail - c.head
        # Safety: fill_offset + n is within the segment, head + n within the buffer.
        memcpy(cython.cast(CharPtr, c.filling.io.iov[c.fill_index].iov_base) + c.fill_offset, c.buffer + c.head, n)
        c.head += cython.cast(uint32_t, n)
        _filled(c, n)


def _filled(c: ConnPtr, n: uint64_t) -> None:
    """n more bytes of the payload are in place; n is at most fill_left."""
    slot: NbdSlotPtr = c.filling
    c.fill_left -= n
    if c.fill_left == 0:
        c.filling = cython.NULL
        _submit(slot)
        return
    c.fill_offset += n
    while c.fill_offset >= slot.io.iov[c.fill_index].iov_len:
        c.fill_offset -= slot.io.iov[c.fill_index].iov_len
        c.fill_index += 1


def _submit(slot: NbdSlotPtr) -> None:
    io: IoPtr = cython.address(slot.io)
    r: NbdRequestPtr = cython.address(slot.request)
    io.done = nbd_done
    io.offset = r.offset
    io.length = r.length
    io.iovcnt = slot.n_buffers
    io.flags = 0
    slot.flush_after = 0
    if r.type == NBD_CMD_READ:
        io.op = OP_READ
    elif r.type == NBD_CMD_WRITE:
        io.op = OP_WRITE
    elif r.type == NBD_CMD_FLUSH:
        io.op = OP_FLUSH
    elif r.type == NBD_CMD_TRIM:
        io.op = OP_UNMAP
        slot.flush_after = r.flags & NBD_CMD_FLAG_FUA and (slot.conn.channel.bdev.ops >> OP_FLUSH) & 1
    else:
        io.op = OP_WRITE_ZEROES
        if r.flags & NBD_CMD_FLAG_NO_HOLE:
            io.flags |= IO_NO_HOLE
    if r.flags & NBD_CMD_FLAG_FUA:
        io.flags |= IO_FUA
    slot.conn.in_flight += 1
    channel_submit(slot.conn.channel, io)
