"""virtio-scsi: how a slot becomes a request (virtio 1.2 §5.6.6.1) with a command in it (SBC-4)."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import UINT32_MAX, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.controllers.scsi.wire import (
    CDB_FUA,
    CDB_UNMAP,
    CMD_HEADER,
    MAX_RANGE_BLOCKS,
    NO_RESPONSE,
    READ_10,
    READ_16,
    RESP_HEADER,
    SYNCHRONIZE_CACHE_10,
    SYNCHRONIZE_CACHE_16,
    UNMAP,
    UNMAP_HEADER,
    UNMAP_RANGE,
    USUAL_CDB,
    WRITE_10,
    WRITE_16,
    WRITE_SAME_16,
    CallPtr,
    CmdReqPtr,
    CmdRespPtr,
    PortPtr,
    TagPtr,
)
from cython.cimports.virtiod.core.atomics import vd_log2, vd_store_u64
from cython.cimports.virtiod.core.bigendian import put_be16, put_be32, put_be64
from cython.cimports.virtiod.core.types import (
    IO_FUA,
    IO_NO_HOLE,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    BdevCorePtr,
    BytePtr,
    CharPtr,
)
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.requests import DATA_SEG, KIND_CONTROL, IoQueuePtr, SlotPtr
from cython.cimports.virtiod.virtqueue.segments import to_device
from cython.cimports.virtiod.virtqueue.split import virtq_area


def _header(q: IoQueuePtr, slot: uint32_t, req: CmdReqPtr, resp: CmdRespPtr, lun: uint64_t) -> None:
    """All but the CDB."""
    port: PortPtr = cython.cast(PortPtr, q.kind)
    tag: TagPtr = cython.address(port.tags[slot])
    port.next_id += 1
    tag.id = port.next_id
    tag.aborted = 0
    req.lun = lun
    req.id = port.next_id
    req.task_attr = 0  # SIMPLE
    req.prio = 0
    req.crn = 0
    resp.response = NO_RESPONSE


def _put_range(cdb: BytePtr, lba: uint64_t, blocks: uint64_t) -> None:
    """The range of a command of 16 or, by its group (SPC-4 §4.2.5.1), 10 bytes."""
    if cdb[0] >> 5 == 4:
        put_be64(cdb + 2, lba)
        put_be32(cdb + 10, cython.cast(uint32_t, blocks))
    else:
        put_be32(cdb + 2, cython.cast(uint32_t, lba))
        put_be16(cdb + 7, cython.cast(uint16_t, blocks))


def _put_command(cdb: BytePtr, s: SlotPtr, lba: uint64_t, blocks: uint64_t) -> None:
    """The slot's command, of 10 bytes where the range allows it. UNMAP's range is in its list."""
    b: BdevCorePtr = s.io.channel.bdev
    small: cython.bint = lba + blocks <= UINT32_MAX and blocks <= 0xFFFF
    if s.kind == OP_READ:
        cdb[0] = READ_10 if small else READ_16
    elif s.kind == OP_WRITE:
        cdb[0] = WRITE_10 if small else WRITE_16
        if s.io.flags & IO_FUA and b.native_fua:
            cdb[1] = CDB_FUA
    elif s.kind == OP_FLUSH:  # of all
        lba = 0
        blocks = 0
        cdb[0] = SYNCHRONIZE_CACHE_16 if b.size >> vd_log2(b.block_size) > UINT32_MAX else SYNCHRONIZE_CACHE_10
    elif s.kind == OP_UNMAP:
        cdb[0] = UNMAP
        return
    else:
        cdb[0] = WRITE_SAME_16
        if b.zeroes_unmap and not s.io.flags & IO_NO_HOLE:
            cdb[1] = CDB_UNMAP
    _put_range(cdb, lba, blocks)


def _unmap_list(p: BytePtr, lba: uint64_t, blocks: uint64_t) -> uint32_t:
    """UNMAP's parameter list (SBC-4 §5.36.2), in as many block descriptors as it takes; its length.

    Safety: the bdev's max_unmap is at most what MAX_UNMAP_RANGES descriptors hold.
    """
    n: uint32_t = UNMAP_HEADER
    take: uint64_t
    while blocks:
        take = blocks if blocks < MAX_RANGE_BLOCKS else MAX_RANGE_BLOCKS
        put_be64(p + n, lba)
        put_be32(p + n + 8, cython.cast(uint32_t, take))
        put_be32(p + n + 12, 0)
        lba += take
        blocks -= take
        n += UNMAP_RANGE
    put_be16(p, cython.cast(uint16_t, n - 2))
    put_be16(p + 2, cython.cast(uint16_t, n - UNMAP_HEADER))
    put_be32(p + 4, 0)
    return n


def scsi_build(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    area: CharPtr = virtq_area(cython.address(q.vq), slot)
    req: CmdReqPtr = cython.cast(CmdReqPtr, area)
    resp: CmdRespPtr = cython.cast(CmdRespPtr, area + port.response_at)
    at: uint64_t = cython.cast(uint64_t, area) + q.vq.to_device
    cdb: BytePtr = cython.address(req.cdb[0])
    seg: SegPtr
    shift: cython.int
    out: uint32_t = 1
    if s.kind == KIND_CONTROL:
        return _build_call(q, slot, req, resp)
    shift = vd_log2(s.io.channel.bdev.block_size)
    _header(q, slot, req, resp, s.io.channel.bdev.unit)
    # Safety: RESPONSE_AT leaves room for a CDB of the usual size, however short the device's is.
    memset(cdb, 0, USUAL_CDB)
    if port.cdb_size > USUAL_CDB:
        memset(cdb + USUAL_CDB, 0, port.cdb_size - USUAL_CDB)
    _put_command(cdb, s, s.offset >> shift, s.length >> shift)
    if s.kind == OP_READ:
        # command | response, data
        seg = cython.address(q.segs[DATA_SEG - 2])
        seg[1].addr = at + port.response_at
        seg[1].len = RESP_HEADER + port.sense_size
        n += 1
    else:
        # command, data | response
        seg = cython.address(q.segs[DATA_SEG - 1])
        if s.kind == OP_WRITE:
            out += n
        elif s.kind == OP_UNMAP:
            seg[1].addr = at + port.unmap_at
            seg[1].len = _unmap_list(cython.cast(BytePtr, area + port.unmap_at), s.offset >> shift, s.length >> shift)
            put_be16(cdb + 7, cython.cast(uint16_t, seg[1].len))
            out = 2
        elif s.kind == OP_WRITE_ZEROES:
            seg[1].addr = to_device(q, cython.cast(uint64_t, q.zeroes))
            seg[1].len = s.io.channel.bdev.block_size
            out = 2
        seg[out].addr = at + port.response_at
        seg[out].len = RESP_HEADER + port.sense_size
        n = 1
    seg[0].addr = at
    seg[0].len = CMD_HEADER + port.cdb_size
    return q.vq.ops.add(cython.address(q.vq), slot, seg, out, n)


def _build_call(q: IoQueuePtr, slot: uint32_t, req: CmdReqPtr, resp: CmdRespPtr) -> cython.int:
    """A command of the control plane, with a buffer for what the device answers."""
    call: CallPtr = cython.cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    at: uint64_t = cython.cast(uint64_t, req) + q.vq.to_device
    seg: SegPtr = cython.address(q.segs[DATA_SEG - 2])
    _header(q, slot, req, resp, call.lun)
    vd_store_u64(cython.address(call.id), port.tags[slot].id)
    memcpy(cython.address(req.cdb[0]), cython.address(call.cdb[0]), port.cdb_size)
    seg[0].addr = at
    seg[0].len = CMD_HEADER + port.cdb_size
    seg[1].addr = at + port.response_at
    seg[1].len = RESP_HEADER + port.sense_size
    seg[2].addr = to_device(q, call.data)
    seg[2].len = call.length
    return q.vq.ops.add(cython.address(q.vq), slot, seg, 1, 2 if call.length else 1)
