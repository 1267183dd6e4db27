"""What an NBD connection sends: the replies to its requests, by one sendmsg in a round."""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EAGAIN, EINTR, errno
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import close
from cython.cimports.virtiod.bdev import channel
from cython.cimports.virtiod.core import linux
from cython.cimports.virtiod.core.linux import msghdr
from cython.cimports.virtiod.core.types import CharPtr, IoPtr, IovPtr, Op, ReadyFlag, SourcePtr, U64Ptr, iovec
from cython.cimports.virtiod.exports.nbd import request, slots
from cython.cimports.virtiod.exports.nbd.request import Cmd, Fail
from cython.cimports.virtiod.exports.nbd.state import SEND_SEGMENTS, ConnPtr, End, SlotPtr, State
from cython.cimports.virtiod.poller import rounds

SEND_BYTES = cython.declare(uint64_t, 1 << 20)


def done(io: IoPtr) -> None:
    slot: SlotPtr = cast(SlotPtr, io)
    c: ConnPtr = slot.conn
    if slot.flush_after and io.status == 0:
        slot.flush_after = 0
        io.op = Op.FLUSH
        io.offset = 0
        io.length = 0
        channel.submit(c.channel, io)
        return
    c.in_flight -= 1
    if io.status or slot.request.type != Cmd.READ:
        if io.op == Op.WRITE and io.iovcnt == 0:
            slots.hand_over(slot)
        slots.give_back(slot)
    if c.state == State.DEAD:
        slots.release(slot)
    else:
        answer(slot, request.failure_of(address(slot.request), io.status))


def answer(slot: SlotPtr, failure: cython.int) -> None:
    """Queues the reply, which is sent at the end of the round."""
    c: ConnPtr = slot.conn
    slot.reply_length = request.reply(slot.reply, address(slot.request), failure, c.limits.structured)
    slot.data_length = 0
    if failure != Fail.NONE:
        c.errors += 1
    elif slot.request.type == Cmd.READ:
        slot.data_length = slot.request.length
    slot.next = NULL
    if c.out == NULL:
        c.out = slot
        c.out_sent = 0
        c.out_since = c.source.poller.now
    else:
        c.out_last.next = slot
    c.out_last = slot
    c.source.dirty = not c.blocked


def flush(s: SourcePtr) -> None:
    """Sends what is queued, SEND_BYTES at most: the poller has others to serve. The rest follows in the next round."""
    c: ConnPtr = cast(ConnPtr, s)
    iov: iovec[SEND_SEGMENTS]
    m: msghdr
    total: uint64_t
    n: cython.Py_ssize_t
    if c.out == NULL or c.blocked:
        return
    memset(address(m), 0, sizeof(msghdr))
    m.msg_iov = iov
    m.msg_iovlen = _gather(c, iov, address(total))
    n = linux.sendmsg(c.fd, address(m), linux.MSG_NOSIGNAL)
    if n < 0:
        if errno != EAGAIN and errno != EINTR:
            die(c, End.LOST)
            return
        n = 0
    c.sent += n
    _advance(c, n)
    if cast(uint64_t, n) < total:
        c.blocked = 1
        rounds.want(s, s.wanted | ReadyFlag.OUT)
    else:
        s.dirty = c.out != NULL


def _gather(c: ConnPtr, iov: IovPtr, total: U64Ptr) -> cython.int:
    """Lists the next bytes of the queue, as many as fit into SEND_SEGMENTS; returns how many segments. total: bytes."""
    slot: SlotPtr = c.out
    skip: uint64_t = c.out_sent
    n: cython.int = 0
    k: cython.int
    total[0] = 0
    while slot != NULL and n < SEND_SEGMENTS and total[0] < SEND_BYTES:
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
                iov[n].iov_base = cast(CharPtr, slot.io.iov[k].iov_base) + skip
                iov[n].iov_len = slot.io.iov[k].iov_len - skip
                total[0] += iov[n].iov_len
                n += 1
                skip = 0
        slot = slot.next
    return n


def _advance(c: ConnPtr, n: uint64_t) -> None:
    """Removes n bytes, which were sent, from the queue."""
    slot: SlotPtr
    left: uint64_t
    while c.out != NULL:
        slot = c.out
        left = slot.reply_length + slot.data_length - c.out_sent
        if n < left:
            c.out_sent += n
            return
        n -= left
        c.out_sent = 0
        c.out_since = c.source.poller.now
        c.out = slot.next
        slots.release(slot)


def die(c: ConnPtr, end: cython.uint) -> None:
    """Closes the socket: nothing can be sent any more. I/Os in flight keep slots and buffers until they are done."""
    slot: SlotPtr
    if c.state >= State.DEAD:
        return
    if c.state == State.RUNNING:
        c.end = end
    c.state = State.DEAD
    slots.leave_queue(c)
    rounds.unwatch(address(c.source))
    close(c.fd)
    c.fd = -1
    c.blocked = 0
    if c.filling != NULL:
        slots.release(c.filling)
        c.filling = NULL
    while c.out != NULL:
        slot = c.out
        c.out = slot.next
        slots.release(slot)
