"""What an NBD connection sends: its I/Os end as replies, and those go out by one sendmsg in a round."""

from __future__ import annotations

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, ETIMEDOUT, errno
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import close
from cython.cimports.virtiod.bdev.channel import channel_submit
from cython.cimports.virtiod.core.linux import MSG_NOSIGNAL, msghdr, sendmsg
from cython.cimports.virtiod.core.types import (
    OP_FLUSH,
    READY_OUT,
    CharPtr,
    IoPtr,
    IovPtr,
    SourcePtr,
    U64Ptr,
    iovec,
)
from cython.cimports.virtiod.exports.nbd.buffers import nbd_give_back, nbd_leave_queue, nbd_release
from cython.cimports.virtiod.exports.nbd.request import FAIL_NONE, NBD_CMD_READ, nbd_failure, nbd_reply
from cython.cimports.virtiod.exports.nbd.state import DEAD, END_LOST, RUNNING, SEND_SEGMENTS, ConnPtr, NbdSlotPtr
from cython.cimports.virtiod.poller.rounds import poller_unwatch, poller_want

SEND_BYTES = cython.declare(uint64_t, 1 << 20)


def nbd_done(io: IoPtr) -> None:
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
        nbd_give_back(slot, io.status == -ETIMEDOUT)
    if c.state == DEAD:
        nbd_release(slot)
    else:
        nbd_answer(slot, nbd_failure(cython.address(slot.request), io.status))


def nbd_answer(slot: NbdSlotPtr, failure: cython.int) -> None:
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


def nbd_flush(s: SourcePtr) -> None:
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
            nbd_die(c, END_LOST)
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
        nbd_release(slot)


def nbd_die(c: ConnPtr, end: cython.uint) -> None:
    """Nothing can be sent any more. I/Os in flight keep their slots and buffers until they are done."""
    slot: NbdSlotPtr
    if c.state >= DEAD:
        return
    if c.state == RUNNING:
        c.end = end
    c.state = DEAD
    nbd_leave_queue(c)
    poller_unwatch(cython.address(c.source))
    close(c.fd)
    c.fd = -1
    c.blocked = 0
    if c.filling != cython.NULL:
        nbd_release(c.filling)
        c.filling = cython.NULL
    while c.out != cython.NULL:
        slot = c.out
        c.out = slot.next
        nbd_release(slot)
