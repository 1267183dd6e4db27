"""Users of a bdev: each begins I/Os on its poller, now and then or as soon as one is done, and looks at what it got.

An I/O's data lies in buffers of the poller's pool, cut into segments at random. What it writes carries stamps
(history.py); what it reads goes to poisoned buffers.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.tests.sim import core, history
from cython.cimports.tests.sim.core import Finding
from cython.cimports.tests.sim.history import BLOCK, NOT_YET, ZERO_STAMP, HistoryPtr
from cython.cimports.tests.sim.users import MAX_BLOCKS, MAX_IOV, POISON, UserIoPtr, UserPtr
from cython.cimports.virtiod.bdev import channel, kept
from cython.cimports.virtiod.core.types import CharPtr, IoFlag, IoPtr, MessagePtr, Op, PollerPtr, iovec
from cython.cimports.virtiod.poller import buffers, rounds

RETRY_NS = cython.declare(uint64_t, 5000)  # the first time
RETRY_MAX_NS = cython.declare(uint64_t, 50_000_000)


def begins_at(u: UserPtr) -> uint64_t:
    return u.next if not u.stopped and u.left and u.in_flight < u.depth else cast(uint64_t, NOT_YET)


def _free_one(u: UserPtr) -> UserIoPtr:
    i: uint32_t
    for i in range(u.depth):
        if not u.ios[i].busy:
            return address(u.ios[i])
    return NULL


# ---- what to do next -----------------------------------------------------------------------------


def _operation(u: UserPtr) -> uint8_t:
    op: uint8_t = 0
    n: uint64_t = core.below(u.sim, 1000)
    while op < Op.WRITE_ZEROES and n >= u.share[op]:
        n -= u.share[op]
        op += 1
    return op if u.share[op] else cast(uint8_t, Op.READ)


def _place(u: UserPtr, i: UserIoPtr) -> cython.bint:
    """Where to; false if others are there."""
    op: uint8_t = i.io.op
    first: uint32_t = 0
    n: uint32_t = u.history.shared
    if u.sweeping:
        i.block = u.sweep
        i.blocks = MAX_BLOCKS
        if i.block < n < i.block + MAX_BLOCKS:
            i.blocks = n - i.block
        if i.block + i.blocks > u.history.blocks:
            i.blocks = u.history.blocks - i.block
        u.sweep += i.blocks
    else:
        if op == Op.UNMAP or op == Op.WRITE_ZEROES or core.chance(u.sim, 200):
            first = n
            n = u.history.blocks - n
        i.blocks = 1 + cast(uint32_t, core.below(u.sim, MAX_BLOCKS if core.chance(u.sim, 300) else 4))
        if i.blocks > n:
            i.blocks = n
        i.block = first + cast(uint32_t, core.below(u.sim, n - i.blocks + 1))
    i.exclusive = i.block >= u.history.shared
    return not i.exclusive or history.reserve(u.history, i.block, i.blocks, op != Op.READ)


def _choose(u: UserPtr, i: UserIoPtr) -> cython.bint:
    """Make up an I/O; false if there is nothing that it could be now."""
    if u.sweeping and u.sweep == u.history.blocks:
        u.left = 0
        return False
    i.io.op = Op.READ if u.sweeping else _operation(u)
    i.io.flags = 0
    i.block = 0
    i.blocks = 0
    i.exclusive = 0
    i.n_buffers = 0
    i.io.iovcnt = 0
    if i.io.op != Op.FLUSH:
        if not _place(u, i):
            return False
        if i.io.op != Op.READ and i.io.op != Op.UNMAP and core.chance(u.sim, u.fua):
            i.io.flags |= IoFlag.FUA
        if i.io.op == Op.WRITE_ZEROES and core.chance(u.sim, 500):
            i.io.flags |= IoFlag.NO_HOLE
    if (i.io.op == Op.READ or i.io.op == Op.WRITE) and not _get_buffers(u, i):
        _release(u, i)
        if u.sweeping:
            u.sweep = i.block
        return False
    i.forced = i.io.op == Op.FLUSH or i.io.flags & IoFlag.FUA
    i.io.offset = cast(uint64_t, i.block) * BLOCK
    i.io.length = cast(uint64_t, i.blocks) * BLOCK
    i.number = u.done + u.in_flight
    return True


def _get_buffers(u: UserPtr, i: UserIoPtr) -> cython.bint:
    i.pool = u.pool
    i.n_buffers = buffers.get(u.pool, cast(uint64_t, i.blocks) * BLOCK, i.buffers, MAX_IOV)
    if not i.n_buffers:
        return False
    if i.io.op == Op.WRITE and core.chance(u.sim, u.hands_over) and kept.takes_over(u.channel, i.pool):
        i.io.flags |= IoFlag.HANDS_OVER
        _leave_whole(i)
    else:
        _cut(u, i)
    return True


def _leave_whole(i: UserIoPtr) -> None:
    """Each buffer is a segment."""
    memcpy(i.iov, i.buffers, i.n_buffers * sizeof(iovec))
    i.io.iov = i.iov
    i.io.iovcnt = i.n_buffers


def _cut(u: UserPtr, i: UserIoPtr) -> None:
    """Cut the buffers into segments, which begin anywhere. None is shorter than a block: a block must fit into two."""
    b: cython.int
    n: uint32_t = 0
    left: uint64_t
    take: uint64_t
    at: CharPtr
    pieces: cython.bint = core.chance(u.sim, 150)
    for b in range(i.n_buffers):
        at = cast(CharPtr, i.buffers[b].iov_base)
        left = i.buffers[b].iov_len
        while left:
            take = left
            if pieces and left >= 2 * BLOCK and n + i.n_buffers < MAX_IOV - 1:
                take = BLOCK + core.below(u.sim, left - 2 * BLOCK + 1)
                if u.channel.bdev.max_segments == 1:
                    take -= take % BLOCK
            i.iov[n].iov_base = at
            i.iov[n].iov_len = take
            n += 1
            at += take
            left -= take
    i.io.iov = i.iov
    i.io.iovcnt = n


# ---- begin ---------------------------------------------------------------------------------------


def _longer(ns: uint64_t) -> uint64_t:
    """How long to wait before the next attempt."""
    return RETRY_NS if ns == 0 else 2 * ns if ns < RETRY_MAX_NS else ns


def start(u: UserPtr) -> cython.int:
    """Have the poller begin an I/O, as a message; it may sleep."""
    i: UserIoPtr = _free_one(u)
    u.next = u.sim.now + core.below(u.sim, 2 * u.think_ns)
    if i == NULL or not _choose(u, i):
        u.retry_ns = _longer(u.retry_ns)
        u.next = u.sim.now + u.retry_ns
        return 0
    u.retry_ns = 0
    i.busy = 1
    i.begun = 0
    u.in_flight += 1
    u.left -= 1
    i.io.msg.run = _begin
    rounds.push(u.poller, address(i.io.msg))
    return 1


def _begin(m: MessagePtr, p: PollerPtr) -> None:
    i: UserIoPtr = cast(UserIoPtr, m)
    u: UserPtr = i.user
    b: uint32_t
    u.sim.events += 1
    i.start = u.sim.events
    i.begun = 1
    core.note(u.sim, i.io.op + (cast(uint64_t, i.block) << 8) + (cast(uint64_t, i.blocks) << 40))
    if i.io.op == Op.READ:
        for b in range(i.io.iovcnt):
            memset(i.io.iov[b].iov_base, POISON, i.io.iov[b].iov_len)
        for b in range(i.blocks):
            i.floors[b] = history.floor_of(u.history, i.block + b)
    elif i.io.op == Op.FLUSH:
        memcpy(i.before, u.history.acked, u.history.blocks * sizeof(uint64_t))
    elif i.io.op == Op.WRITE and not _begin_writes(u, i):
        core.found(u.sim, Finding.FULL, 0, 0, 0)
    channel.submit(u.channel, address(i.io))


def _begin_writes(u: UserPtr, i: UserIoPtr) -> cython.bint:
    """Stamp each block."""
    b: uint32_t
    block: cython.char[BLOCK]
    for b in range(i.blocks):
        i.stamps[b] = history.begin(u.history, i.block + b)
        if not i.stamps[b]:
            return False
        history.stamp(block, i.stamps[b])
        _fill(i, b, block)
    return True


def _fill(i: UserIoPtr, block: uint32_t, data: CharPtr) -> None:
    """Write a block of the I/O's data, wherever its segments lie."""
    n: uint32_t = 0
    offset: uint64_t = cast(uint64_t, block) * BLOCK
    left: uint64_t = BLOCK
    take: uint64_t
    while offset >= i.iov[n].iov_len:
        offset -= i.iov[n].iov_len
        n += 1
    while left:
        take = i.iov[n].iov_len - offset
        if take > left:
            take = left
        memcpy(cast(CharPtr, i.iov[n].iov_base) + offset, data, take)
        data += take
        left -= take
        offset = 0
        n += 1


def _data(i: UserIoPtr, block: uint32_t, room: CharPtr) -> CharPtr:
    """A block of the I/O's data in one piece: where it lies, or copied into room."""
    n: uint32_t = 0
    offset: uint64_t = cast(uint64_t, block) * BLOCK
    done: uint64_t = 0
    take: uint64_t
    while offset >= i.iov[n].iov_len:
        offset -= i.iov[n].iov_len
        n += 1
    if offset + BLOCK <= i.iov[n].iov_len:
        return cast(CharPtr, i.iov[n].iov_base) + offset
    while done < BLOCK:
        take = i.iov[n].iov_len - offset
        if take > BLOCK - done:
            take = BLOCK - done
        memcpy(room + done, cast(CharPtr, i.iov[n].iov_base) + offset, take)
        done += take
        offset = 0
        n += 1
    return room


# ---- end -----------------------------------------------------------------------------------------


def _done(io: IoPtr) -> None:
    i: UserIoPtr = cast(UserIoPtr, io)
    u: UserPtr = i.user
    if not i.busy or not i.begun:
        core.found(u.sim, Finding.TWICE, io.op, i.number, 0)
        return
    u.sim.events += 1
    core.note(u.sim, cast(uint64_t, io.status) + u.sim.events)
    _judge(u, i)
    _release(u, i)
    i.busy = 0
    u.in_flight -= 1
    u.done += 1
    u.sim.ended += 1
    if io.status:
        u.failed += 1
        u.failures[io.op] += 1
    if u.left and not u.stopped and core.chance(u.sim, u.hurry) and _choose(u, i):
        i.busy = 1
        u.in_flight += 1
        u.left -= 1
        _begin(address(io.msg), u.poller)


def _judge(u: UserPtr, i: UserIoPtr) -> None:
    b: uint32_t
    room: cython.char[BLOCK]
    h: HistoryPtr = u.history
    if i.io.op == Op.READ:
        for b in range(i.blocks if i.io.status == 0 else 0):
            history.saw(h, i.block + b, _data(i, b, room), i.start, address(i.floors[b]))
    elif i.io.op == Op.WRITE:
        _wrote(u, i)
    elif i.io.op != Op.FLUSH:
        for b in range(i.blocks):
            _hold(h, i, i.block + b, ZERO_STAMP, i.io.op == Op.WRITE_ZEROES)
    if i.forced:
        _flushed(u, i)


def _hold(h: HistoryPtr, i: UserIoPtr, block: uint32_t, value: uint64_t, surely: cython.bint) -> None:
    """What an exclusive block holds now."""
    if h.unkept and i.start < h.since:
        history.anything(h, block)  # it may have been done, and lost, before the answer was seen
    elif surely and i.io.status == 0:
        history.only(h, block, value)
    else:
        history.maybe(h, block, value)
    if i.io.status:
        history.failed(h, block)


def _flushed(u: UserPtr, i: UserIoPtr) -> None:
    """What was acknowledged before it is stable; of what was lost each user must hear by one that fails."""
    b: uint32_t
    h: HistoryPtr = u.history
    if i.io.status:
        u.heard = h.lost
    elif h.unkept and i.start < h.since:
        return  # what it is to cover may be lost: another one may have told
    elif u.heard != h.lost:
        core.found(u.sim, Finding.LIED, i.number, i.start, 0)
    elif i.io.op == Op.FLUSH:
        for b in range(h.blocks):
            h.stable[b] = max(h.stable[b], i.before[b])
    elif i.io.op == Op.WRITE:
        for b in range(i.blocks):
            h.stable[i.block + b] = max(h.stable[i.block + b], h.writes[i.stamps[b]].start)


def _wrote(u: UserPtr, i: UserIoPtr) -> None:
    b: uint32_t
    room: cython.char[BLOCK]
    h: HistoryPtr = u.history
    for b in range(i.blocks):
        if history.stamp_of(_data(i, b, room)) != i.stamps[b]:
            core.found(u.sim, Finding.SCRIBBLED, i.block + b, i.stamps[b], 0)
        history.end(h, i.stamps[b], i.io.status == 0)
        if i.exclusive:
            _hold(h, i, i.block + b, i.stamps[b], True)


def _release(u: UserPtr, i: UserIoPtr) -> None:
    """Give back what the I/O has."""
    if i.exclusive:
        history.give_back(u.history, i.block, i.blocks, i.io.op != Op.READ)
        i.exclusive = 0
    stay: cython.bint = i.begun and i.io.iovcnt == 0  # with the bdev
    if i.n_buffers and not stay and i.io.epoch:
        buffers.quarantine(i.pool, i.buffers, i.n_buffers, i.io.epoch, u.channel.holding)
    elif i.n_buffers and not stay:
        buffers.put(i.pool, i.buffers, i.n_buffers)
    i.io.epoch = 0
    i.n_buffers = 0
