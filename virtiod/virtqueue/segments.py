"""Where an I/O's data lies for the device: its segments, within the device's limits and in the device's addresses."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.virtiod.core.types import BdevCorePtr, IoPtr, Op
from cython.cimports.virtiod.virtqueue import queue
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, SlotPtr


def to_device(q: IoQueuePtr, at: uint64_t) -> uint64_t:
    if q.pages == NULL:
        return at + q.delta
    # Safety: pages has an entry for each page that DMA memory may ever have.
    page: uint64_t = q.pages[(at - q.pages_base) >> q.page_shift]
    return page + (at & ((cast(uint64_t, 1) << q.page_shift) - 1))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _left_in_page(q: IoQueuePtr, at: uint64_t) -> uint64_t:
    """Bytes from an address to the end of its page: the next one may lie anywhere for the device."""
    size: uint64_t = cast(uint64_t, 1) << q.page_shift
    return size - (at & (size - 1))


def gather(q: IoQueuePtr, io: IoPtr, s: SlotPtr, limit: uint64_t) -> uint32_t:
    """Fills segs from where the slot begins in io's iov, with at most limit bytes; returns the number of segments.

    Sets the slot's length to what fits: a whole number of blocks, in bytes.
    """
    b: BdevCorePtr = io.channel.bdev
    index: uint32_t = s.iov_index
    offset: uint64_t = s.iov_offset
    total: uint64_t = 0
    n: uint32_t = 0
    take: uint64_t
    left: uint64_t
    at: uint64_t
    seg: SegPtr = address(q.segs[queue.DATA_SEG])
    zero: cython.bint = io.op == Op.WRITE_ZEROES
    while total < limit and n < b.max_segments:
        # Safety: the iov's total is the I/O's length, so index stays below iovcnt while total < limit.
        left = q.zeroes_len if zero else io.iov[index].iov_len - offset
        take = limit - total
        if take > left:
            take = left
        if take > b.max_segment:
            take = b.max_segment
        if zero:
            seg[n].addr = to_device(q, cast(uint64_t, q.zeroes))
        else:
            at = cast(uint64_t, io.iov[index].iov_base) + offset
            if q.pages != NULL:
                left = _left_in_page(q, at)
                if take > left:
                    take = left
            seg[n].addr = to_device(q, at)
            offset += take
            if offset == io.iov[index].iov_len:
                index += 1
                offset = 0
        seg[n].len = cast(uint32_t, take)
        n += 1
        total += take
    left = total & (b.block_size - 1)
    total -= left
    while left:  # what is beyond the last whole block goes into the next piece
        if seg[n - 1].len > left:
            seg[n - 1].len -= cast(uint32_t, left)
            left = 0
        else:
            left -= seg[n - 1].len
            n -= 1
    s.length = total
    return n
