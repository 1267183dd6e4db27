"""Mistakes of the data path, put in the way of a queue that is sound. Each is made now and then only."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EIO
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.tests.sim.faults import Sound
from cython.cimports.virtiod.controllers.blk.queue import BlkAreaPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import IoFlag, IoPtr, Op, SourcePtr
from cython.cimports.virtiod.virtio.blk import RequestType
from cython.cimports.virtiod.virtqueue import layout
from cython.cimports.virtiod.virtqueue.handle import RequestQueue
from cython.cimports.virtiod.virtqueue.layout import SegPtr, U32Ptr, VirtqPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr

EVERY = cython.declare(uint32_t, 199)

_sound = cython.declare(Sound)
_count = cython.declare(uint32_t, 0)


def _now_and_then() -> cython.bint:
    global _count
    _count += 1
    return _count % EVERY == 0


def _publish_unkicked(q: VirtqPtr) -> cython.bint:
    return _sound.publish(q) and not _now_and_then()


def _arm_blindly(q: VirtqPtr) -> cython.bint:
    """Asks for an interrupt and does not look once more."""
    _sound.arm(q)
    return False


def _flush_not(s: SourcePtr) -> None:
    if not _now_and_then():
        _sound.flush(s)


def _add_backwards(q: VirtqPtr, slot: uint32_t, segs: SegPtr, n_out: uint32_t, n_in: uint32_t) -> cython.int:
    """Says of the last readable segment that the device writes it."""
    if _now_and_then():
        return _sound.add(q, slot, segs, n_out - 1, n_in + 1)
    return _sound.add(q, slot, segs, n_out, n_in)


def _pop_another(q: VirtqPtr, written: U32Ptr) -> cython.int:
    """Takes the answer to one request for that to the next one that is in flight."""
    i: uint32_t
    other: uint32_t
    slot: cython.int = _sound.pop(q, written)
    if slot < 0 or not q.indirect or not _now_and_then():
        return slot
    for i in range(1, q.size):
        other = (slot + i) & q.mask
        if q.chain[other]:
            q.chain[other] = 0
            q.chain[slot] = 1
            return cast(cython.int, other)
    return slot


def _result_good(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    _sound.ops.result(q, slot, written)
    return 0


def _result_bad(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    status: cython.int = _sound.ops.result(q, slot, written)
    return -EIO if _now_and_then() else status


def _build_elsewhere(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    """Asks for the sector before."""
    status: cython.int = _sound.ops.build(q, slot, n)
    area: BlkAreaPtr = cast(BlkAreaPtr, layout.slot_area(address(q.vq), slot))
    if area.header.sector and _now_and_then():
        area.header.sector -= 1
    return status


def _build_discard(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    """Discards where zeroes are to be."""
    status: cython.int = _sound.ops.build(q, slot, n)
    area: BlkAreaPtr = cast(BlkAreaPtr, layout.slot_area(address(q.vq), slot))
    if area.header.type == RequestType.WRITE_ZEROES:
        area.header.type = RequestType.DISCARD
    return status


def _result_stable(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    """Takes what was acknowledged while a flush was under way for stable."""
    io: IoPtr = q.slots[slot].io
    if io != NULL and q.slots[slot].kind == Op.FLUSH:
        io.mark = atomics.load_u64(address(io.channel.bdev.acknowledged))
    return _sound.ops.result(q, slot, written)


def _build_unforced(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    """Forgets that a write is to be flushed."""
    io: IoPtr = q.slots[slot].io
    if io != NULL:
        io.flags &= ~cast(cython.uint, IoFlag.FUA | IoFlag.THROUGH)
    return _sound.ops.build(q, slot, n)


def spoil(queue: RequestQueue, fault: str) -> None:
    """Have a queue that was just made make a mistake."""
    global _count
    q: IoQueuePtr = address(queue.q)
    _count = 0
    _sound.ops = q.ops
    _sound.add = q.vq.ops.add
    _sound.pop = q.vq.ops.pop
    _sound.publish = q.vq.ops.publish
    _sound.arm = q.vq.ops.arm
    _sound.flush = q.source.flush
    if fault == "kicks too rarely":
        q.vq.ops.publish = _publish_unkicked
    elif fault == "sleeps without a second look":
        q.vq.ops.arm = _arm_blindly
    elif fault == "forgets to publish":
        q.source.flush = _flush_not
    elif fault == "swaps directions":
        q.vq.ops.add = _add_backwards
    elif fault == "completes another request":
        q.vq.ops.pop = _pop_another
    elif fault == "takes errors for success":
        q.ops.result = _result_good
    elif fault == "takes success for an error":
        q.ops.result = _result_bad
    elif fault == "goes to the sector before":
        q.ops.build = _build_elsewhere
    elif fault == "discards instead of zeroing":
        q.ops.build = _build_discard
    elif fault == "takes more for stable":
        q.ops.result = _result_stable
    elif fault == "forgets to force":
        q.ops.build = _build_unforced
    else:
        raise ValueError(fault)
