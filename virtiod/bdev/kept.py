"""Acknowledged writes are kept until they are stable, so that they can be written again when their device has died.

A device with a volatile cache may lose what it acknowledged, until a flush. So a channel keeps each write, in the DMA
buffers that it lies in, until a flush succeeded that began after its acknowledgement. Discards and zeroes are kept
without data. Acknowledgements are numbered over all channels of a bdev: a write that was submitted after another's
acknowledgement has the larger number. A flush notes the next number when it begins; its success makes stable
what is below, and each poller gives back its own part of that.

What is kept is bounded, by channel and by poller. At half of a channel's bound virtiod flushes by itself; at the bound
writes wait for that. What can't be kept at all (longer than the bound, or other bdevs have the poller's share of
buffers) is followed by a flush before it is acknowledged, as with FUA. If the device does not know flushes, nothing is
kept any more: what it loses is told.

Here is the bookkeeping; channel.py submits, keeping.py is the control plane's side.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EIO, EOPNOTSUPP
from cython.cimports.libc.stdint import UINT64_MAX, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.bdev import cache, rewind
from cython.cimports.virtiod.bdev.kept import RECORDS, SEGMENTS, KeepPtr, KeptWritePtr, Need, NeedPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import (
    BdevCorePtr,
    ChannelPtr,
    CharPtr,
    IoFlag,
    IoPtr,
    IovPtr,
    MessagePtr,
    Op,
)
from cython.cimports.virtiod.poller import buffers, rounds
from cython.cimports.virtiod.poller.buffers import PoolPtr

NO_MARK = cython.declare(uint64_t, UINT64_MAX)
LARGE_RECORD = cython.declare(uint64_t, SEGMENTS * buffers.LARGE)


def give_room(k: KeepPtr, pool: PoolPtr) -> None:
    k.pool = pool
    k.max_small = pool.n_small // (2 * buffers.KEPT_SMALL)
    k.max_large = pool.n_large // (2 * buffers.KEPT_LARGE)


def takes_over(ch: ChannelPtr, pool: PoolPtr) -> cython.bint:
    return ch.keep != NULL and cast(KeepPtr, ch.keep).pool == pool


# ---- in ------------------------------------------------------------------------------------------


def admit(ch: ChannelPtr, io: IoPtr) -> cython.bint:
    k: KeepPtr = cast(KeepPtr, ch.keep)
    b: BdevCorePtr = ch.bdev
    if io.op == Op.READ:
        return True
    if io.op == Op.FLUSH:
        io.mark = atomics.load_u64(address(b.acknowledged))
        return True
    if flush_follows(io):
        io.flags |= IoFlag.THROUGH  # whatever becomes of the cache's mode: it is not kept
        return True
    if k.pool == NULL or k.closed or not _volatile(b):
        return True
    if k.waiting == NULL and _reserve(k, io):
        return True
    _wait(k, io)
    return False


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _volatile(b: BdevCorePtr) -> cython.bint:
    """What is written may be lost until a flush, or overwritten by what is written again."""
    if not (b.native >> Op.FLUSH) & 1:
        return False
    if cache.is_volatile(b):
        return True
    return atomics.load_u64(address(b.stable)) < atomics.load_u64(address(b.acknowledged))


def flush_follows(io: IoPtr) -> cython.bint:
    b: BdevCorePtr = io.channel.bdev
    if io.flags & IoFlag.THROUGH:
        return True
    if not io.flags & IoFlag.FUA or (io.op != Op.WRITE and io.op != Op.WRITE_ZEROES):
        return False
    if not cache.flush_reaches(b) or not cache.is_volatile(b):
        return False
    return not atomics.load_u8(address(b.native_fua)) or (
        io.op == Op.WRITE_ZEROES and (b.native >> Op.WRITE_ZEROES) & 1
    )


def _wait(k: KeepPtr, io: IoPtr) -> None:
    io.msg.next = NULL
    if k.waiting == NULL:
        k.waiting = io
    else:
        k.waiting_tail.msg.next = cast(MessagePtr, io)
    k.waiting_tail = io


def _reserve(k: KeepPtr, io: IoPtr) -> cython.bint:
    """Records and buffers for io, or a flush behind it; false if it has to wait."""
    need: Need
    if k.closed:
        return True
    _estimate(k, io, address(need))
    if need.records <= RECORDS and need.small <= k.max_small and need.large <= k.max_large:
        if not _has_room(k, address(need)):
            if not k.flush_failed:
                return False
        elif _has_share(k.pool, address(need)) and _take_room(k, io, need.records):
            return True
    io.flags |= IoFlag.THROUGH
    return True


def _estimate(k: KeepPtr, io: IoPtr, need: NeedPtr) -> None:
    i: uint32_t
    need.records = 1
    need.small = 0
    need.large = 0
    if io.op != Op.WRITE:
        return
    if io.flags & IoFlag.HANDS_OVER:
        for i in range(io.iovcnt):
            need.large += cast(CharPtr, io.iov[i].iov_base) >= k.pool.large
        need.small = io.iovcnt - need.large
        need.records = (io.iovcnt + SEGMENTS - 1) // SEGMENTS
    elif io.length <= buffers.SMALL:
        need.small = 1
    else:
        need.large = cast(uint32_t, (io.length + buffers.LARGE - 1) // buffers.LARGE)
        need.records = (need.large + SEGMENTS - 1) // SEGMENTS


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _has_room(k: KeepPtr, need: NeedPtr) -> cython.bint:
    return (
        k.n_taken + need.records <= RECORDS
        and k.n_small + need.small <= k.max_small
        and k.n_large + need.large <= k.max_large
    )


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _has_share(pool: PoolPtr, need: NeedPtr) -> cython.bint:
    """The poller's other bdevs leave some."""
    return pool.kept_small + need.small <= pool.n_small // buffers.KEPT_SMALL and (
        pool.kept_large + need.large <= pool.n_large // buffers.KEPT_LARGE
    )


def _take_room(k: KeepPtr, io: IoPtr, records: uint32_t) -> cython.bint:
    """Take what _estimate() said; false if the pool has too few buffers for a copy."""
    w: KeptWritePtr
    left: uint64_t = io.length
    part: uint64_t
    while records:
        records -= 1
        w = _take(k)
        w.next = cast(KeptWritePtr, io.kept)
        io.kept = w
        w.io.iovcnt = 0
        if io.op == Op.WRITE and not io.flags & IoFlag.HANDS_OVER:
            part = left if left < LARGE_RECORD else LARGE_RECORD
            w.io.iovcnt = buffers.get(k.pool, part, w.iov, SEGMENTS)
            if w.io.iovcnt == 0:
                _give_back_all(k, io)
                return False
            _count(k, w.iov, w.io.iovcnt, 1)
            left -= part
    if io.op == Op.WRITE and io.flags & IoFlag.HANDS_OVER:
        _count(k, io.iov, io.iovcnt, 1)
    return True


def _count(k: KeepPtr, iov: IovPtr, n: uint32_t, sign: cython.int) -> None:
    """n buffers more, or less, that hold kept writes, or are about to."""
    i: uint32_t
    for i in range(n):
        if cast(CharPtr, iov[i].iov_base) >= k.pool.large:
            k.n_large += sign
            k.pool.kept_large += sign
        else:
            k.n_small += sign
            k.pool.kept_small += sign


def _take(k: KeepPtr) -> KeptWritePtr:
    """A record: there is one."""
    w: KeptWritePtr = k.free
    if w != NULL:
        k.free = w.next
    else:
        w = address(k.records[k.n_fresh])  # so that memory is used only as far as it is needed
        k.n_fresh += 1
    k.n_taken += 1
    return w


# ---- kept ----------------------------------------------------------------------------------------


def ended(ch: ChannelPtr, io: IoPtr) -> None:
    k: KeepPtr = cast(KeepPtr, ch.keep)
    b: BdevCorePtr = ch.bdev
    losses: uint64_t
    if io.op == Op.READ:
        return
    io.flags &= ~cast(cython.uint, IoFlag.THROUGH)
    if io.status == -EOPNOTSUPP and io.op != Op.FLUSH and io.mark != NO_MARK:  # written, and its flush was refused
        keep_no_more(k)
        if not io.flags & IoFlag.FUA:
            io.status = 0
            io.mark = NO_MARK
    if io.kept != NULL and (io.status or k.closed or io.mark != NO_MARK):  # or a flush came after it
        if io.op == Op.WRITE and io.flags & IoFlag.HANDS_OVER:
            _count(k, io.iov, io.iovcnt, -1)
        _give_back_all(k, io)
        release(k)
    if io.status:
        if io.status == -EIO and io.op == Op.FLUSH and io.losses_seen != NULL:  # it says what a loss would say
            io.losses_seen[0] = atomics.load_u64(address(b.losses))
        return
    if io.mark != NO_MARK:
        stabilize(ch, io.mark)
    elif io.kept != NULL:
        _keep(k, io)
    elif io.op != Op.FLUSH and _volatile(b):
        atomics.raise_u64(address(b.not_kept), atomics.fetch_add_u64(address(b.acknowledged), 1) + 1)
    if io.losses_seen != NULL and (io.op == Op.FLUSH or io.flags & IoFlag.FUA):
        losses = atomics.load_u64(address(b.losses))
        if io.losses_seen[0] != losses:
            io.losses_seen[0] = losses
            io.status = -EIO


def _keep(k: KeepPtr, io: IoPtr) -> None:
    """io is acknowledged now: it has a number from here on."""
    number: uint64_t = atomics.fetch_add_u64(address(k.channel.bdev.acknowledged), 1)
    w: KeptWritePtr = cast(KeptWritePtr, io.kept)
    after: KeptWritePtr
    io.kept = NULL
    rewind.rewind(io)
    while w != NULL:
        after = w.next
        w.number = number
        w.lost = 0
        w.io.op = io.op
        w.io.flags = io.flags & IoFlag.NO_HOLE
        w.io.offset = io.offset + io.cursor
        _fill(k, io, w)
        w.next = NULL
        if k.newest == NULL:
            k.oldest = w
        else:
            k.newest.next = w
        k.newest = w
        _count_kept(k, w, 1)
        k.kept_bytes += w.io.length
        w = after
    if io.op == Op.WRITE and io.flags & IoFlag.HANDS_OVER:
        io.iovcnt = 0
    if number < atomics.load_u64(address(k.channel.bdev.stable)):
        release(k)  # that flush may have found nothing here


def _count_kept(k: KeepPtr, w: KeptWritePtr, sign: cython.int) -> None:
    """A record more, or less, that is kept."""
    i: uint32_t
    k.n_kept += sign
    for i in range(w.io.iovcnt):
        if cast(CharPtr, w.iov[i].iov_base) >= k.pool.large:
            k.kept_large += sign
        else:
            k.kept_small += sign


def _fill(k: KeepPtr, io: IoPtr, w: KeptWritePtr) -> None:
    """What w has of io, from its cursor on: the buffers themselves, or a copy of what is in them."""
    i: uint32_t
    n: uint64_t
    at: uint64_t
    w.io.iov = w.iov
    w.io.length = io.length
    if io.op != Op.WRITE:
        return
    w.io.length = 0
    if io.flags & IoFlag.HANDS_OVER:
        while w.io.iovcnt < SEGMENTS and io.iov_index < io.iovcnt:
            w.iov[w.io.iovcnt] = io.iov[io.iov_index]
            w.io.length += io.iov[io.iov_index].iov_len
            w.io.iovcnt += 1
            io.iov_index += 1
        io.cursor += w.io.length
        return
    for i in range(w.io.iovcnt):
        at = 0
        while at < w.iov[i].iov_len:
            n = io.iov[io.iov_index].iov_len - io.iov_offset
            n = min(n, w.iov[i].iov_len - at)
            # Safety: at + n is within the buffer, iov_offset + n within the segment; both are io.length in total.
            memcpy(
                cast(CharPtr, w.iov[i].iov_base) + at,
                cast(CharPtr, io.iov[io.iov_index].iov_base) + io.iov_offset,
                n,
            )
            at += n
            io.iov_offset += n
            if io.iov_offset == io.iov[io.iov_index].iov_len:
                io.iov_index += 1
                io.iov_offset = 0
        w.io.length += w.iov[i].iov_len
    io.cursor += w.io.length


# ---- out -----------------------------------------------------------------------------------------


def stabilize(ch: ChannelPtr, mark: uint64_t) -> None:
    k: KeepPtr = cast(KeepPtr, ch.keep)
    b: BdevCorePtr = ch.bdev
    atomics.raise_u64(address(b.stable), mark)
    k.flush_failed = 0
    _tell_others(k)
    release(k)


def keep_no_more(k: KeepPtr) -> None:
    b: BdevCorePtr = k.channel.bdev
    if not atomics.load_u8(address(b.keeps_no_more)):
        atomics.store_u8(address(b.keeps_no_more), 1)
        _tell_others(k)
    release(k)


def _tell_others(k: KeepPtr) -> None:
    """The other pollers' Keeps look what they may give back. One that keeps nothing need not."""
    other: KeepPtr
    b: BdevCorePtr = k.channel.bdev
    i: uint32_t
    for i in range(b.n_keeps):
        other = cast(KeepPtr, b.keeps[i])
        if other == k or not atomics.load_u32(address(other.n_kept)):
            continue
        if not atomics.fetch_or_u32(address(other.told), 1):
            rounds.push(other.channel.poller, address(other.news))


def release(k: KeepPtr) -> None:
    w: KeptWritePtr
    io: IoPtr
    b: BdevCorePtr = k.channel.bdev
    stable: uint64_t = atomics.load_u64(address(b.stable))
    if k.held:
        return
    if atomics.load_u8(address(b.keeps_no_more)) and not k.closed:
        atomics.raise_u64(address(b.not_kept), atomics.load_u64(address(b.acknowledged)))
        give_up(k)
    while k.oldest != NULL and k.oldest.number < stable:
        w = k.oldest
        k.oldest = w.next
        if k.oldest == NULL:
            k.newest = NULL
        _forget(k, w)
    while k.waiting != NULL:
        io = k.waiting
        if not _reserve(k, io):
            break
        k.waiting = cast(IoPtr, io.msg.next)
        k.channel.submit(k.channel, io)


def _forget(k: KeepPtr, w: KeptWritePtr) -> None:
    _count_kept(k, w, -1)
    k.kept_bytes -= w.io.length
    _give_back(k, w)


def _give_back(k: KeepPtr, w: KeptWritePtr) -> None:
    if w.io.iovcnt:
        _count(k, w.iov, w.io.iovcnt, -1)
        if w.io.epoch and k.channel.holding != NULL:
            buffers.quarantine(k.pool, w.iov, w.io.iovcnt, w.io.epoch, k.channel.holding)
        else:
            buffers.put(k.pool, w.iov, w.io.iovcnt)
    w.io.epoch = 0
    w.next = k.free
    k.free = w
    k.n_taken -= 1


def _give_back_all(k: KeepPtr, io: IoPtr) -> None:
    """What was reserved for io."""
    w: KeptWritePtr = cast(KeptWritePtr, io.kept)
    after: KeptWritePtr
    io.kept = NULL
    while w != NULL:
        after = w.next
        _give_back(k, w)
        w = after


def wants_flush(k: KeepPtr) -> cython.bint:
    if k.n_kept == 0 or k.flushing or k.closed or k.held:
        return False
    if k.waiting != NULL and k.n_taken == k.n_kept:  # nothing in flight will be kept, and no more will fill it
        return True
    return not k.flush_failed and (
        2 * k.n_kept >= RECORDS or 2 * k.kept_small >= k.max_small or 2 * k.kept_large >= k.max_large
    )


def fail_waiting(k: KeepPtr, before: uint64_t, status: cython.int) -> None:
    io: IoPtr = k.waiting
    after: IoPtr
    k.waiting = NULL
    while io != NULL:
        after = cast(IoPtr, io.msg.next)
        if io.submitted_ns < before:
            rounds.defer(k.channel.poller, io, status)
        else:
            _wait(k, io)
        io = after


def give_up(k: KeepPtr) -> uint32_t:
    w: KeptWritePtr
    n: uint32_t = 0
    stable: uint64_t = atomics.load_u64(address(k.channel.bdev.stable))
    k.closed = 1
    while k.oldest != NULL:
        w = k.oldest
        k.oldest = w.next
        n += w.number >= stable
        _forget(k, w)
    k.newest = NULL
    return n
