"""virtio-scsi: how a slot becomes a request (virtio 1.2 §5.6.6.1) with a command in it (SBC-4)."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.stdint import UINT32_MAX, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.bdev import identity
from cython.cimports.virtiod.controllers.scsi.port import USUAL_CDB, CallPtr, PortPtr, TagPtr
from cython.cimports.virtiod.core import atomics, bigendian, bits
from cython.cimports.virtiod.core.types import BdevCorePtr, BytePtr, CharPtr, IoFlag, Op
from cython.cimports.virtiod.scsi.spec import UNMAP_HEADER, UNMAP_RANGE, CdbFlag, Opcode, RangeLimit
from cython.cimports.virtiod.virtio import scsi
from cython.cimports.virtiod.virtio.scsi import CmdReqPtr, CmdRespPtr, TaskAttribute
from cython.cimports.virtiod.virtqueue import layout, queue, segments
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, SlotPtr


def _header(q: IoQueuePtr, slot: uint32_t, req: CmdReqPtr, resp: CmdRespPtr, lun: uint64_t) -> None:
    """Writes the header, all but the CDB, and marks the response as not written."""
    port: PortPtr = cast(PortPtr, q.kind)
    tag: TagPtr = address(port.tags[slot])
    port.next_id += 1
    tag.id = port.next_id
    tag.aborted = 0
    req.lun = lun
    req.id = port.next_id
    req.task_attr = TaskAttribute.SIMPLE
    req.prio = 0
    req.crn = 0
    resp.response = scsi.NO_RESPONSE


def _put_range(cdb: BytePtr, lba: uint64_t, blocks: uint64_t) -> None:
    """Writes the range of a command of 16 or, by its group (SPC-4 §4.2.5.1), 10 bytes."""
    if cdb[0] >> 5 == 4:
        bigendian.put64(cdb + 2, lba)
        bigendian.put32(cdb + 10, cast(uint32_t, blocks))
    else:
        bigendian.put32(cdb + 2, cast(uint32_t, lba))
        bigendian.put16(cdb + 7, cast(uint16_t, blocks))


def _put_command(cdb: BytePtr, s: SlotPtr, lba: uint64_t, blocks: uint64_t) -> None:
    """Writes the slot's command, of 10 bytes where the range allows it. UNMAP's range is in its list."""
    b: BdevCorePtr = s.io.channel.bdev
    small: cython.bint = lba + blocks <= UINT32_MAX and blocks <= 0xFFFF
    if s.kind == Op.READ:
        cdb[0] = Opcode.READ_10 if small else Opcode.READ_16
    elif s.kind == Op.WRITE:
        cdb[0] = Opcode.WRITE_10 if small else Opcode.WRITE_16
        if s.io.flags & IoFlag.FUA and atomics.load_u8(address(b.native_fua)):
            cdb[1] = CdbFlag.FUA
    elif s.kind == Op.FLUSH:  # of the whole unit
        lba = 0
        blocks = 0
        cdb[0] = (
            Opcode.SYNCHRONIZE_CACHE_16
            if b.size >> bits.log2(b.block_size) > UINT32_MAX
            else Opcode.SYNCHRONIZE_CACHE_10
        )
    elif s.kind == Op.UNMAP:
        cdb[0] = Opcode.UNMAP
        return
    else:
        cdb[0] = Opcode.WRITE_SAME_16
        if b.zeroes_unmap and not s.io.flags & IoFlag.NO_HOLE:
            cdb[1] = CdbFlag.MAY_UNMAP
    _put_range(cdb, lba, blocks)


def _unmap_list(p: BytePtr, lba: uint64_t, blocks: uint64_t) -> uint32_t:
    """Writes UNMAP's parameter list (SBC-4 §5.36.2) with as many block descriptors as it takes; returns its bytes.

    Safety: the bdev's max_unmap is at most what MAX_UNMAP_RANGES descriptors hold.
    """
    n: uint32_t = UNMAP_HEADER
    take: uint64_t
    while blocks:
        take = blocks if blocks < RangeLimit.MAX_RANGE_BLOCKS else RangeLimit.MAX_RANGE_BLOCKS
        bigendian.put64(p + n, lba)
        bigendian.put32(p + n + 8, cast(uint32_t, take))
        bigendian.put32(p + n + 12, 0)
        lba += take
        blocks -= take
        n += UNMAP_RANGE
    bigendian.put16(p, cast(uint16_t, n - 2))
    bigendian.put16(p + 2, cast(uint16_t, n - UNMAP_HEADER))
    bigendian.put32(p + 4, 0)
    return n


def build(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    s: SlotPtr = address(q.slots[slot])
    port: PortPtr = cast(PortPtr, q.kind)
    area: CharPtr = layout.slot_area(address(q.vq), slot)
    req: CmdReqPtr = cast(CmdReqPtr, area)
    resp: CmdRespPtr = cast(CmdRespPtr, area + port.response_at)
    at: uint64_t = cast(uint64_t, area) + q.vq.to_device
    cdb: BytePtr = address(req.cdb[0])
    seg: SegPtr
    shift: cython.int
    kind: cython.int = s.kind
    out: uint32_t = 1
    if kind == queue.KIND_CONTROL:
        return _build_call(q, slot, req, resp)
    shift = bits.log2(s.io.channel.bdev.block_size)
    _header(q, slot, req, resp, s.io.channel.bdev.unit)
    # Safety: RESPONSE_AT leaves room for a CDB of the usual size, however short the device's is.
    memset(cdb, 0, USUAL_CDB)
    if port.cdb_size > USUAL_CDB:
        memset(cdb + USUAL_CDB, 0, port.cdb_size - USUAL_CDB)
    s.probe = s.command == NULL and identity.in_doubt(s.io.channel.bdev)
    if s.probe:
        port.tags[slot].confirming = 0
    if s.probe or port.tags[slot].confirming:
        kind = Op.FLUSH  # a CDB of zeros is TEST UNIT READY, which has no data either
    else:
        _put_command(cdb, s, s.offset >> shift, s.length >> shift)
    if kind == Op.READ:
        # command | response, data
        seg = address(q.segs[queue.DATA_SEG - 2])
        seg[1].addr = at + port.response_at
        seg[1].len = scsi.RESP_HEADER + port.sense_size
        n += 1
    else:
        # command, data | response
        seg = address(q.segs[queue.DATA_SEG - 1])
        if kind == Op.WRITE:
            out += n
        elif kind == Op.UNMAP:
            seg[1].addr = at + port.unmap_at
            seg[1].len = _unmap_list(cast(BytePtr, area + port.unmap_at), s.offset >> shift, s.length >> shift)
            bigendian.put16(cdb + 7, cast(uint16_t, seg[1].len))
            out = 2
        elif kind == Op.WRITE_ZEROES:
            seg[1].addr = segments.to_device(q, cast(uint64_t, q.zeroes))
            seg[1].len = s.io.channel.bdev.block_size
            out = 2
        seg[out].addr = at + port.response_at
        seg[out].len = scsi.RESP_HEADER + port.sense_size
        n = 1
    seg[0].addr = at
    seg[0].len = scsi.CMD_HEADER + port.cdb_size
    return q.vq.ops.add(address(q.vq), slot, seg, out, n)


def _build_call(q: IoQueuePtr, slot: uint32_t, req: CmdReqPtr, resp: CmdRespPtr) -> cython.int:
    """Builds a command of the control plane, with a buffer for what the device answers."""
    call: CallPtr = cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cast(PortPtr, q.kind)
    at: uint64_t = cast(uint64_t, req) + q.vq.to_device
    seg: SegPtr = address(q.segs[queue.DATA_SEG - 2])
    _header(q, slot, req, resp, call.lun)
    atomics.store_u64(address(call.id), port.tags[slot].id)
    memcpy(address(req.cdb[0]), address(call.cdb[0]), port.cdb_size)
    memset(cast(CharPtr, call.data), 0, call.length)  # a unit that writes less must not seem to say what another said
    seg[0].addr = at
    seg[0].len = scsi.CMD_HEADER + port.cdb_size
    seg[1].addr = at + port.response_at
    seg[1].len = scsi.RESP_HEADER + port.sense_size
    seg[2].addr = segments.to_device(q, call.data)
    seg[2].len = call.length
    return q.vq.ops.add(address(q.vq), slot, seg, 1, 2 if call.length else 1)
