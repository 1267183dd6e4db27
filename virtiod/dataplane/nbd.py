"""NBD's transmission phase on a poller: requests from a socket to a bdev's channel, and replies back.

A round costs a busy connection one recv, which takes as many requests as have come, and one sendmsg, which carries all
replies that became ready. Data goes straight between the socket and DMA buffers; only the part of a payload that comes
with its header is copied. What a connection may use is bounded: SLOTS requests, HELD_MAX bytes of buffers. When that is
used up it stops reading until replies are sent, so a client that does not read holds up only itself.

Buffers are taken all or nothing for a request, by the connections of a poller in the order in which they began to wait.
Only while some wait can a client that has stopped in mid-transfer, for STALL_NS, be cut off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, ETIMEDOUT, errno
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memmove, memset, strncpy
from cython.cimports.posix.unistd import close
from cython.cimports.virtiod.dataplane.atomics import vd_load_u64, vd_relaxed_u64
from cython.cimports.virtiod.dataplane.buffers import LARGE_BUFFER, PollerBuffers, pool_get, pool_lose, pool_put
from cython.cimports.virtiod.dataplane.channel import BdevChannels, channel_submit
from cython.cimports.virtiod.dataplane.linux import MSG_NOSIGNAL, msghdr, readv, recv, sendmsg
from cython.cimports.virtiod.dataplane.nbd import (
    DEAD,
    DRAINING,
    END_ABORTED,
    END_DISCONNECT,
    END_EOF,
    END_LOST,
    END_MAGIC,
    END_STALLED,
    END_START,
    END_STOPPED,
    FEW_SEGMENTS,
    GONE,
    LARGE_REQUESTS,
    MANY_SEGMENTS,
    RECEIVE_SEGMENTS,
    RECEIVE_SIZE,
    RUNNING,
    SEND_SEGMENTS,
    SLOTS,
    ConnPtr,
    IovArray,
    NbdConn,
    NbdShare,
    NbdSlot,
    NbdSlotArray,
    NbdSlotPtr,
    SharePtr,
)
from cython.cimports.virtiod.dataplane.nbd_request import (
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
    nbd_failure,
    nbd_reply,
)
from cython.cimports.virtiod.dataplane.poller import (
    Poller,
    mailbox_push,
    poller_add_source,
    poller_remove_source,
    poller_unwatch,
    poller_want,
)
from cython.cimports.virtiod.dataplane.structs import (
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
    CommandPtr,
    IoPtr,
    IovPtr,
    PollerPtr,
    SourcePtr,
    U64Ptr,
    VoidPtr,
    command_fn,
    iovec,
)

HELD_MAX = cython.declare(uint64_t, 16 << 20)  # a single longer request is taken when nothing else is held
LONG_WRITE = cython.declare(uint32_t, 65536)
RECEIVE_AHEAD = cython.declare(uint32_t, 4096)  # behind a long payload: its data is not worth a copy
FEW_BYTES = cython.declare(uint64_t, (FEW_SEGMENTS - 1) * LARGE_BUFFER)
SEND_BYTES = cython.declare(uint64_t, 1 << 20)
HOT_NS = cython.declare(uint64_t, 50_000)
HOT_STREAK = cython.declare(cython.uint, 8)
TRY_NS = cython.declare(uint64_t, 300)
STALL_NS = cython.declare(uint64_t, 5_000_000_000)

MAX_PAYLOAD = 32 << 20  # "Size constraints": what a client may send without asking
END_REASONS = (
    "disconnected",
    "closed its connection",
    "connection lost",
    "sent what is no request",
    "the export ended",
    "cut off",
    "cut off: it held buffers that others waited for",
    "the poller has too many sources",
)


# ---- a round ------------------------------------------------------------------------------------


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    c: ConnPtr = cython.cast(ConnPtr, s)
    work: cython.int = s.dirty
    ready: cython.uint = s.ready
    s.ready = 0
    if c.blocked and ready & READY_OUT:
        c.blocked = 0
        s.dirty = 1
        work = 1
    if ready & READY_GONE and (c.paused or c.state != RUNNING):
        _die(c, END_LOST)
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


def _arm(s: SourcePtr) -> cython.bint:
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


def _tick(s: SourcePtr, now: uint64_t) -> None:
    if _stalled(cython.cast(ConnPtr, s), now):
        _die(cython.cast(ConnPtr, s), END_STALLED)


# ---- receiving ----------------------------------------------------------------------------------


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
            _die(c, END_LOST)
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
            _answer(c.refused, c.refusal)
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
        elif not _take_buffers(c, slot):
            return False
    c.n_free -= 1
    c.requests += 1
    if failure != FAIL_NONE and r.type == NBD_CMD_WRITE and r.length:
        c.skip = r.length  # clients don't expect the reply before they have sent it all
        c.refused = slot
        c.refusal = failure
    elif failure != FAIL_NONE:
        _answer(slot, failure)
    elif r.type == NBD_CMD_WRITE:
        c.filling = slot
        c.fill_index = 0
        c.fill_offset = 0
        c.fill_left = r.length
        c.fill_since = c.source.poller.now
        c.writes_long = r.length >= LONG_WRITE
    elif r.type == NBD_CMD_FLUSH and not (c.channel.bdev.ops >> OP_FLUSH) & 1:
        _answer(slot, FAIL_NONE)
    else:
        _submit(slot)
    return True


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


# ---- buffers ------------------------------------------------------------------------------------


def _take_buffers(c: ConnPtr, slot: NbdSlotPtr) -> cython.bint:
    """Buffers for slot.request; false if it has to wait, for its own connection or in the queue of all."""
    length: uint64_t = slot.request.length
    share: SharePtr = c.share
    if c.held and c.held + length > HELD_MAX:
        return False
    if length > FEW_BYTES and c.n_large == 0:
        return False
    if share.first != cython.NULL and share.first != c:
        _wait(c)
        return False
    slot.io.iov = slot.few
    slot.n_buffers = FEW_SEGMENTS
    if length > FEW_BYTES:
        slot.io.iov = c.large[c.n_large - 1]
        slot.n_buffers = MANY_SEGMENTS
    slot.n_buffers = pool_get(share.pool, length, slot.io.iov, slot.n_buffers)
    if slot.n_buffers == 0:
        _wait(c)
        return False
    if length > FEW_BYTES:
        c.n_large -= 1
        slot.large = 1
    c.held += length
    _leave_queue(c)
    return True


def _capacity(share: SharePtr) -> uint64_t:
    """Bytes that can ever be free at once."""
    if share.pool.lost >= share.pool.n_large:
        return 0
    return (share.pool.n_large - share.pool.lost) * LARGE_BUFFER


def _wait(c: ConnPtr) -> None:
    share: SharePtr = c.share
    if c.waiting:
        return
    c.waiting = 1
    c.next_waiting = cython.NULL
    if share.first == cython.NULL:
        share.first = c
        share.waiting_since = c.source.poller.now
    else:
        share.last.next_waiting = c
    share.last = c


def _leave_queue(c: ConnPtr) -> None:
    share: SharePtr = c.share
    before: ConnPtr = share.first
    if not c.waiting:
        return
    c.waiting = 0
    if before == c:
        share.first = c.next_waiting
        share.waiting_since = c.source.poller.now
        return
    while before.next_waiting != c:
        before = before.next_waiting
    before.next_waiting = c.next_waiting
    if share.last == c:
        share.last = before


def _give_back(slot: NbdSlotPtr, lost: cython.bint) -> None:
    """slot needs its buffers no longer. Lost ones are never used again: the device may still write to them."""
    c: ConnPtr = slot.conn
    if slot.n_buffers == 0:
        return
    if lost:
        pool_lose(c.share.pool, slot.n_buffers)
    else:
        pool_put(c.share.pool, slot.io.iov, slot.n_buffers)
    slot.n_buffers = 0
    c.held -= slot.request.length
    if slot.large:
        slot.large = 0
        c.large[c.n_large] = slot.io.iov
        c.n_large += 1


def _release(slot: NbdSlotPtr) -> None:
    c: ConnPtr = slot.conn
    _give_back(slot, False)
    c.free[c.n_free] = slot
    c.n_free += 1


def _stalled(c: ConnPtr, now: uint64_t) -> cython.bint:
    """Others wait for buffers, and this client has left some in mid-transfer."""
    share: SharePtr = c.share
    if share.first == cython.NULL or now - share.waiting_since < STALL_NS or c.held == 0:
        return False
    if c.filling != cython.NULL and now - c.fill_since > STALL_NS:
        return True
    return c.blocked and now - c.out_since > STALL_NS


# ---- I/O ----------------------------------------------------------------------------------------


def _submit(slot: NbdSlotPtr) -> None:
    io: IoPtr = cython.address(slot.io)
    r: NbdRequestPtr = cython.address(slot.request)
    io.done = _done
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


def _done(io: IoPtr) -> None:
    slot: NbdSlotPtr = cython.cast(NbdSlotPtr, io)
    c: ConnPtr = slot.conn
    if slot.flush_after and io.status == 0:
        slot.flush_after = 0
        io.op = OP_FLUSH
        io.offset = 0
        io.length = 0
        channel_submit(c.channel, io)
        return
    c.in_flight -= 1
    if io.status or slot.request.type != NBD_CMD_READ:
        _give_back(slot, io.status == -ETIMEDOUT)
    if c.state == DEAD:
        _release(slot)
    else:
        _answer(slot, nbd_failure(cython.address(slot.request), io.status))


# ---- sending ------------------------------------------------------------------------------------


def _answer(slot: NbdSlotPtr, failure: cython.int) -> None:
    """Queue the reply; it goes out at the end of the round."""
    c: ConnPtr = slot.conn
    slot.reply_length = nbd_reply(slot.reply, cython.address(slot.request), failure, c.limits.structured)
    slot.data_length = 0
    if failure != FAIL_NONE:
        c.errors += 1
    elif slot.request.type == NBD_CMD_READ:
        slot.data_length = slot.request.length
    slot.next = cython.NULL
    if c.out == cython.NULL:
        c.out = slot
        c.out_sent = 0
        c.out_since = c.source.poller.now
    else:
        c.out_last.next = slot
    c.out_last = slot
    c.source.dirty = not c.blocked


def _flush(s: SourcePtr) -> None:
    """Send what is queued, SEND_BYTES at most: the poller has others to serve. The rest follows in the next round."""
    c: ConnPtr = cython.cast(ConnPtr, s)
    iov: iovec[SEND_SEGMENTS]
    m: msghdr
    total: uint64_t
    n: cython.Py_ssize_t
    if c.out == cython.NULL or c.blocked:
        return
    memset(cython.address(m), 0, cython.sizeof(msghdr))
    m.msg_iov = iov
    m.msg_iovlen = _gather(c, iov, cython.address(total))
    n = sendmsg(c.fd, cython.address(m), MSG_NOSIGNAL)
    if n < 0:
        if errno != EAGAIN and errno != EINTR:
            _die(c, END_LOST)
            return
        n = 0
    c.sent += n
    _advance(c, n)
    if cython.cast(uint64_t, n) < total:
        c.blocked = 1
        poller_want(s, s.wanted | READY_OUT)
    else:
        s.dirty = c.out != cython.NULL


def _gather(c: ConnPtr, iov: IovPtr, total: U64Ptr) -> cython.int:
    """The next bytes of the queue, as many as fit into SEND_SEGMENTS: how many segments, and their bytes in total."""
    slot: NbdSlotPtr = c.out
    skip: uint64_t = c.out_sent
    n: cython.int = 0
    k: cython.int
    total[0] = 0
    while slot != cython.NULL and n < SEND_SEGMENTS and total[0] < SEND_BYTES:
        if skip < slot.reply_length:
            iov[n].iov_base = slot.reply + skip
            iov[n].iov_len = slot.reply_length - skip
            total[0] += iov[n].iov_len
            n += 1
            skip = 0
        else:
            skip -= slot.reply_length
        if slot.data_length:
            for k in range(slot.n_buffers):
                if skip >= slot.io.iov[k].iov_len:
                    skip -= slot.io.iov[k].iov_len
                    continue
                if n == SEND_SEGMENTS or total[0] >= SEND_BYTES:
                    break
                iov[n].iov_base = cython.cast(CharPtr, slot.io.iov[k].iov_base) + skip
                iov[n].iov_len = slot.io.iov[k].iov_len - skip
                total[0] += iov[n].iov_len
                n += 1
                skip = 0
        slot = slot.next
    return n


def _advance(c: ConnPtr, n: uint64_t) -> None:
    """n more bytes of the queue are sent."""
    slot: NbdSlotPtr
    left: uint64_t
    while c.out != cython.NULL:
        slot = c.out
        left = slot.reply_length + slot.data_length - c.out_sent
        if n < left:
            c.out_sent += n
            return
        n -= left
        c.out_sent = 0
        c.out_since = c.source.poller.now
        c.out = slot.next
        _release(slot)


# ---- the end of a connection --------------------------------------------------------------------


def _idle(c: ConnPtr) -> cython.bint:
    return c.in_flight == 0 and c.out == cython.NULL


def _drain(c: ConnPtr, end: cython.uint) -> None:
    """No more requests; the socket is closed when those in flight are answered."""
    c.state = DRAINING
    c.end = end


def _die(c: ConnPtr, end: cython.uint) -> None:
    """Nothing can be sent any more. I/Os in flight keep their slots and buffers until they are done."""
    slot: NbdSlotPtr
    if c.state >= DEAD:
        return
    if c.state == RUNNING:
        c.end = end
    c.state = DEAD
    _leave_queue(c)
    poller_unwatch(cython.address(c.source))
    close(c.fd)
    c.fd = -1
    c.blocked = 0
    if c.filling != cython.NULL:
        _release(c.filling)
        c.filling = cython.NULL
    while c.out != cython.NULL:
        slot = c.out
        c.out = slot.next
        _release(slot)


def _bury(c: ConnPtr) -> None:
    """All is done: give the connection to the control plane, which may free it at once."""
    p: PollerPtr = c.source.poller
    _die(c, END_STOPPED)
    poller_remove_source(p, cython.address(c.source))
    c.state = GONE
    mailbox_push(p.control, cython.address(c.ended))


# ---- commands -----------------------------------------------------------------------------------


def _cmd_start(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cython.cast(ConnPtr, cmd.ctx)
    if poller_add_source(p, cython.address(c.source)) < 0:
        close(c.fd)
        c.fd = -1
        c.end = END_START
        c.state = GONE
        mailbox_push(p.control, cython.address(c.ended))
    return 0


def _cmd_stop(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cython.cast(ConnPtr, cmd.ctx)
    c.stopping = 1
    if c.state != GONE:
        _leave_queue(c)  # its requests need no buffers any more
    return 0


def _cmd_abort(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    _die(cython.cast(ConnPtr, cmd.ctx), END_ABORTED)
    return 0


class NbdCounters(NamedTuple):
    """Of one connection. received and sent are bytes on the socket."""

    requests: int = 0
    errors: int = 0
    received: int = 0
    sent: int = 0
    in_flight: int = 0


class NbdPoller:
    """What the connections of one poller share."""

    share: NbdShare

    def __init__(self, poller: Poller, buffers: PollerBuffers) -> None:
        self.poller = poller
        self.buffers = buffers
        self.share.pool = cython.address(buffers.pool)
        self.connections = 0

    @property
    def max_payload(self) -> int:
        """Bytes of the longest READ and WRITE that the buffers allow."""
        return min(MAX_PAYLOAD, int(self.buffers.pool.n_large) * LARGE_BUFFER)


class NbdConnection:
    """A connection in transmission. It lives until on_end(reason) is called on the event loop.

    fd is a non-blocking stream socket, owned from start() on; leftover are the bytes that came after the negotiation;
    flags the transmission flags that the client was told.
    """

    def __cinit__(self) -> None:
        i: cython.int
        self.c = cython.cast(ConnPtr, calloc(1, cython.sizeof(NbdConn)))
        if self.c == cython.NULL:
            raise MemoryError
        self.c.fd = -1
        self.c.buffer = cython.cast(CharPtr, calloc(1, RECEIVE_SIZE))
        self.c.slots = cython.cast(NbdSlotPtr, calloc(SLOTS, cython.sizeof(NbdSlot)))
        self.c.free = cython.cast(NbdSlotArray, calloc(SLOTS, cython.sizeof(NbdSlotPtr)))
        self.c.large = cython.cast(IovArray, calloc(LARGE_REQUESTS, cython.sizeof(IovPtr)))
        if not (self.c.buffer and self.c.slots and self.c.free and self.c.large):
            raise MemoryError
        for i in range(SLOTS):
            self.c.slots[i].conn = self.c
            self.c.free[i] = cython.address(self.c.slots[SLOTS - 1 - i])
        for i in range(LARGE_REQUESTS):
            self.c.large[i] = cython.cast(IovPtr, calloc(MANY_SEGMENTS, cython.sizeof(iovec)))
            if self.c.large[i] == cython.NULL:
                raise MemoryError
        self.c.n_free = SLOTS
        self.c.n_large = LARGE_REQUESTS

    def __init__(
        self,
        home: NbdPoller,
        channels: BdevChannels,
        fd: int,
        *,
        name: str,
        flags: int,
        structured: bool,
        leftover: bytes,
        on_end: Callable[[str], None],
    ) -> None:
        if len(leftover) > RECEIVE_SIZE:
            raise ValueError(f"leftover of {len(leftover)} bytes")
        c: ConnPtr = self.c
        self.home = home
        self.channels = channels
        self.on_end = on_end
        c.channel = channels.channel(home.poller)
        c.share = cython.address(home.share)
        c.limits.max_payload = home.max_payload
        c.limits.block_size = c.channel.bdev.block_size
        c.limits.flags = flags
        c.limits.structured = structured
        c.limits.fast_zero = (c.channel.bdev.native >> OP_WRITE_ZEROES) & 1
        memcpy(c.buffer, cython.cast(CharPtr, leftover), len(leftover))
        c.tail = len(leftover)
        c.paused = 1  # what is left over is looked at in the first round
        c.source.poll = _poll
        c.source.flush = _flush
        c.source.arm = _arm
        c.source.tick = _tick
        c.source.watched = 1
        source_name: bytes = f"nbd_{name}".encode("ascii", "replace")
        strncpy(c.source.name, source_name, 39)
        c.source.fd = fd

    def start(self) -> None:
        """Have the poller serve it."""
        self.c.fd = self.c.source.fd
        self.home.connections += 1
        self.home.poller.control.expect(cython.address(self.c.ended), self._ended)
        self.home.poller.own(cython.address(self.c.source), self)
        self._command(_cmd_start)

    def _command(self, fn: command_fn) -> object:
        return self.home.poller.command(fn, cython.cast(VoidPtr, self.c), 0, 0, cython.NULL, self)

    @property
    def poller_name(self) -> str:
        return self.home.poller.name

    def stop(self) -> None:
        """Take no more requests, answer those in flight, close. Ends at once when there are none."""
        self._command(_cmd_stop)

    def abort(self) -> None:
        """Close the socket now. Ends when the I/Os in flight are done."""
        self._command(_cmd_abort)

    def counters(self) -> NbdCounters:
        return NbdCounters(
            vd_relaxed_u64(cython.address(self.c.requests)),
            vd_relaxed_u64(cython.address(self.c.errors)),
            vd_relaxed_u64(cython.address(self.c.received)),
            vd_relaxed_u64(cython.address(self.c.sent)),
            vd_relaxed_u64(cython.address(self.c.in_flight)),
        )

    def _ended(self) -> None:
        self.home.connections -= 1
        self.home.poller.disown(cython.address(self.c.source))
        self.on_end(END_REASONS[self.c.end])

    def __dealloc__(self) -> None:
        i: cython.int
        if self.c == cython.NULL:
            return
        if self.c.fd >= 0:
            os.close(self.c.fd)
        if self.c.large != cython.NULL:
            for i in range(LARGE_REQUESTS):
                free(self.c.large[i])
        free(self.c.large)
        free(self.c.free)
        free(self.c.slots)
        free(self.c.buffer)
        free(self.c)
