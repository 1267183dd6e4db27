"""The split virtqueue, driver side (virtio 1.2 §2.7).

The device shares the ring and may write any of it at any time. So the driver keeps its own free list, chain lengths and
indexes; of the shared memory it reads only the used ring and the two suppression words, each value once, and trusts an
id only after it names a chain in flight. Indexes are 16 bits and wrap; they are compared by difference only.

Memory, one block, in this order: descriptors; avail ring; used ring; for each slot a table of three descriptors and the
area of the kind of controller, side by side so that a common request is one cache line; for each slot a long table.
With indirect descriptors slot n always uses descriptor n, whose contents then rarely change: its cache line stays
shared between driver and device.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EAGAIN, EINVAL, ENOMEM, ENOSPC, EPROTO
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import CharPtr, VoidPtr
from cython.cimports.virtiod.virtqueue.layout import (
    MAX_QUEUE_SIZE,
    AvailFlag,
    AvailPtr,
    DescFlag,
    DescPtr,
    SegPtr,
    U16Ptr,
    U32Ptr,
    UsedElemPtr,
    UsedFlag,
    UsedPtr,
    VirtqPtr,
    VringDesc,
    VringUsedElem,
    slot_area,
)
from cython.cimports.virtiod.virtqueue.split import SMALL_TABLE, SMALL_TABLE_BYTES


def _stride(area_bytes: uint32_t) -> uint32_t:
    return (SMALL_TABLE_BYTES + area_bytes + 63) & ~cast(uint32_t, 63)


def _used_offset(size: uint64_t) -> uint64_t:
    # flags, idx and used_event beside the ring; the used ring starts on a cache line of its own
    return (size * sizeof(VringDesc) + 2 * (size + 3) + 63) & ~cast(uint64_t, 63)


def _areas_offset(size: uint64_t) -> uint64_t:
    # flags, idx and avail_event beside the ring
    return (_used_offset(size) + size * sizeof(VringUsedElem) + 6 + 63) & ~cast(uint64_t, 63)


def footprint(size: uint16_t, area_bytes: uint32_t, max_chain: uint32_t) -> uint64_t:
    """Shared memory that init() needs, in bytes; 64-byte aligned."""
    return _areas_offset(size) + cast(uint64_t, size) * (_stride(area_bytes) + sizeof(VringDesc) * max_chain)


def init(
    q: VirtqPtr,
    memory: VoidPtr,
    size: uint16_t,
    area_bytes: uint32_t,
    max_chain: uint32_t,
    indirect: cython.bint,
    event_idx: cython.bint,
) -> cython.int:
    """Lays a ring out in memory (footprint() bytes) and empties it. -EINVAL for a size that is no power of two."""
    base: CharPtr = cast(CharPtr, memory)
    if size == 0 or size & (size - 1) or size > MAX_QUEUE_SIZE:
        return -EINVAL
    memset(q, 0, sizeof(q[0]))
    q.next = cast(U16Ptr, calloc(size, 2))
    q.chain = cast(U16Ptr, calloc(size, 2))
    q.slot_of = cast(U16Ptr, calloc(size, 2))
    if q.next == NULL or q.chain == NULL or q.slot_of == NULL:
        _destroy(q)
        return -ENOMEM
    q.size = size
    q.mask = size - 1
    q.indirect = indirect
    q.event_idx = event_idx
    q.area_stride = _stride(area_bytes)
    q.table_len = max_chain
    q.desc = cast(DescPtr, base)
    q.avail = cast(AvailPtr, address(q.desc[size]))
    q.used_event = address(q.avail.ring[size])
    q.used = cast(UsedPtr, base + _used_offset(size))
    q.avail_event = cast(U16Ptr, address(q.used.ring[size]))
    q.areas = base + _areas_offset(size) + SMALL_TABLE_BYTES
    q.tables = base + _areas_offset(size) + cast(uint64_t, size) * q.area_stride
    q.ops.add = _add
    q.ops.pop = _pop
    q.ops.publish = _publish
    q.ops.arm = _arm
    q.ops.disarm = _disarm
    q.ops.reset = _reset
    q.ops.destroy = _destroy
    _reset(q)
    return 0


def _destroy(q: VirtqPtr) -> None:
    free(q.next)
    free(q.chain)
    free(q.slot_of)
    q.next = NULL
    q.chain = NULL
    q.slot_of = NULL


def _reset(q: VirtqPtr) -> None:
    i: uint16_t
    memset(q.desc, 0, _areas_offset(q.size))
    memset(q.chain, 0, 2 * cast(uint64_t, q.size))
    for i in range(q.size):
        q.next[i] = 0 if q.indirect else i + 1
    q.free_head = 0
    q.n_free = q.size
    q.avail_idx = 0
    q.published = 0
    q.used_idx = 0
    q.last_used = 0
    q.in_flight = 0
    q.broken = 0
    _disarm(q)


def _fill(table: DescPtr, segs: SegPtr, n_out: uint32_t, n: uint32_t) -> None:
    """Writes an indirect table of n descriptors, the first n_out for the device to read (§2.7.5.3)."""
    i: uint32_t
    for i in range(n):
        table[i].addr = segs[i].addr
        table[i].len = segs[i].len
        table[i].flags = (0 if i < n_out else DescFlag.WRITE) | (DescFlag.NEXT if i + 1 < n else 0)
        table[i].next = cast(uint16_t, i + 1)


def _add(q: VirtqPtr, slot: uint32_t, segs: SegPtr, n_out: uint32_t, n_in: uint32_t) -> cython.int:
    # Safety: callers keep to slot < size and n <= table_len; entries are masked.
    n: uint32_t = n_out + n_in
    head: cython.int
    table: CharPtr
    desc: DescPtr
    if q.indirect:
        head = cast(cython.int, slot)
        if n <= SMALL_TABLE:
            table = slot_area(q, slot) - SMALL_TABLE_BYTES
        else:
            table = q.tables + cast(uint64_t, slot) * q.table_len * sizeof(VringDesc)
        _fill(cast(DescPtr, table), segs, n_out, n)
        desc = address(q.desc[head])
        if q.next[head] != n:  # next[] is free in this mode: it remembers what the descriptor says
            q.next[head] = cast(uint16_t, n)
            desc.addr = cast(uint64_t, table) + q.to_device
            desc.len = n * sizeof(VringDesc)
            desc.flags = DescFlag.INDIRECT
            desc.next = 0
        q.chain[head] = 1
    else:
        if n > q.n_free:
            return -ENOSPC
        head = _add_direct(q, segs, n_out, n)
    q.slot_of[head] = cast(uint16_t, slot)
    q.avail.ring[q.avail_idx & q.mask] = cast(uint16_t, head)
    q.avail_idx += 1
    q.in_flight += 1
    return 0


def _add_direct(q: VirtqPtr, segs: SegPtr, n_out: uint32_t, n: uint32_t) -> cython.int:
    """Chains n descriptors of the free list, which has as many; returns the head."""
    i: uint32_t
    at: uint16_t = q.free_head
    head: uint16_t = at
    desc: DescPtr
    for i in range(n):
        desc = address(q.desc[at])
        desc.addr = segs[i].addr
        desc.len = segs[i].len
        desc.flags = (0 if i < n_out else DescFlag.WRITE) | (DescFlag.NEXT if i + 1 < n else 0)
        desc.next = q.next[at]
        at = q.next[at]
    q.free_head = at
    q.n_free -= cast(uint16_t, n)
    q.chain[head] = cast(uint16_t, n)
    return head


def _pop(q: VirtqPtr, written: U32Ptr) -> cython.int:
    elem: UsedElemPtr
    head: uint32_t
    seen: uint16_t
    if q.last_used == q.used_idx:
        if q.broken:
            return -EPROTO
        seen = atomics.load_u16(address(q.used.idx))  # acquire: the entries before it are complete
        if seen == q.last_used:
            return -EAGAIN
        if cast(uint16_t, seen - q.last_used) > q.in_flight:
            q.broken = 1
            return -EPROTO
        q.used_idx = seen
    elem = address(q.used.ring[q.last_used & q.mask])
    head = atomics.load_u32(address(elem.id))
    written[0] = atomics.load_u32(address(elem.len))
    if head >= q.size or q.chain[head] == 0:
        q.broken = 1
        q.last_used = q.used_idx  # take nothing more
        return -EPROTO
    if q.indirect:
        q.chain[head] = 0
    else:
        _free_chain(q, cast(uint16_t, head))
    q.last_used += 1
    q.in_flight -= 1
    return q.slot_of[head]


def _free_chain(q: VirtqPtr, head: uint16_t) -> None:
    """Gives a chain back by the private links; its length bounds the walk."""
    tail: uint16_t = head
    n: uint16_t = q.chain[head]
    _i: uint16_t
    for _i in range(n - 1):
        tail = q.next[tail]
    q.next[tail] = q.free_head
    q.free_head = head
    q.n_free += n
    q.chain[head] = 0


def _publish(q: VirtqPtr) -> cython.bint:
    old: uint16_t = q.published
    new: uint16_t = q.avail_idx
    event: uint16_t
    if new == old:
        return False
    atomics.store_u16(address(q.avail.idx), new)  # release: the entries are complete before the index
    q.published = new
    atomics.fence()  # the index is visible before the device's wish is read; the device does it the other way round
    if q.event_idx:
        if cast(uint16_t, q.last_used - q.event_at) > 0x4000:
            _disarm(q)  # keep used_event away from an index that wraps
        event = atomics.load_u16(q.avail_event)
        return cast(uint16_t, new - event - 1) < cast(uint16_t, new - old)
    return not atomics.load_u16(address(q.used.flags)) & UsedFlag.NO_NOTIFY


def _arm(q: VirtqPtr) -> cython.bint:
    if q.event_idx:
        atomics.store_u16(q.used_event, q.last_used)
    else:
        atomics.store_u16(address(q.avail.flags), 0)
    atomics.fence()  # the wish is visible before the index is read
    return not q.broken and q.last_used != atomics.load_u16(address(q.used.idx))


def _disarm(q: VirtqPtr) -> None:
    if q.event_idx:
        q.event_at = q.last_used - 1
        atomics.store_u16(q.used_event, q.event_at)
    else:
        atomics.store_u16(address(q.avail.flags), AvailFlag.NO_INTERRUPT)
