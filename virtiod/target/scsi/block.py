"""What the embedded target's logical units do with their blocks (SBC-3).

A command sets either moved, the bytes of data that went in or out, or a status with sense data.
"""

from __future__ import annotations

import cython
from cython import address, cast
from cython.cimports.libc.stdint import UINT32_MAX, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core import atomics, bigendian
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, IovPtr
from cython.cimports.virtiod.scsi.spec import (
    UNMAP_HEADER,
    UNMAP_RANGE,
    Asc,
    CapacityFlag,
    CdbFlag,
    Opcode,
    SenseKey,
    ServiceAction,
)
from cython.cimports.virtiod.target import disk, ring
from cython.cimports.virtiod.target.scsi import task
from cython.cimports.virtiod.target.scsi.task import ScsiTaskPtr
from cython.cimports.virtiod.virtio.scsi import Response


def _in_range(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> cython.bint:
    total: uint64_t = atomics.load_u64(address(t.lun.disk.size)) >> t.lun.shift
    if lba > total or blocks > total - lba:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)
        return False
    return True


def capacity(t: ScsiTaskPtr) -> None:
    """READ CAPACITY(10) and (16) (SBC-3 §5.15, §5.16)."""
    data: cython.uchar[32]
    last: uint64_t = (atomics.load_u64(address(t.lun.disk.size)) >> t.lun.shift) - 1
    block: uint32_t = cast(uint32_t, 1) << t.lun.shift
    memset(address(data[0]), 0, 32)
    if t.cdb[0] == Opcode.READ_CAPACITY_10:
        bigendian.put32(address(data[0]), 0xFFFFFFFF if last >> 32 else cast(uint32_t, last))
        bigendian.put32(address(data[4]), block)
        task.reply(t, address(data[0]), 8, 8)
    elif t.cdb[1] & 0x1F != ServiceAction.READ_CAPACITY_16:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
    else:
        bigendian.put32(address(data[0]), cast(uint32_t, last >> 32))
        bigendian.put32(address(data[4]), cast(uint32_t, last))
        bigendian.put32(address(data[8]), block)
        data[14] = CapacityFlag.LBPME | CapacityFlag.UNMAPPED_ARE_ZEROES
        task.reply(t, address(data[0]), 32, bigendian.get32(t.cdb + 10))


def _read(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> None:
    total: uint64_t = blocks << t.lun.shift
    if blocks > t.lun.max_transfer:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
    elif not _in_range(t, lba, blocks):
        return
    elif total > t.in_bytes:
        t.response = Response.OVERRUN
    elif disk.read(t.lun.disk, lba << t.lun.shift, total, t.into, task.trim(t.into, t.n_in, total)) < 0:
        task.check(t, SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR)
    else:
        t.moved = total


def _write(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t, fua: cython.bint) -> None:
    total: uint64_t = blocks << t.lun.shift
    out: IovPtr = address(t.q.out[t.first])
    if blocks > t.lun.max_transfer:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
    elif not _in_range(t, lba, blocks):
        return
    elif total > t.out_bytes:
        t.response = Response.OVERRUN
    elif disk.write(t.lun.disk, lba << t.lun.shift, total, out, task.trim(out, t.q.n_out - t.first, total)) < 0 or (
        fua and disk.flush(t.lun.disk) < 0
    ):
        task.check(t, SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)
    else:
        t.moved = total


def _flush_cache(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> None:
    if _in_range(t, lba, blocks) and disk.flush(t.lun.disk) < 0:
        task.check(t, SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)


def _unmap(t: ScsiTaskPtr) -> None:
    """SBC-3 §5.28. Ranges are looked at one by one; what came before a bad one is unmapped."""
    length: uint64_t = bigendian.get16(t.cdb + 7)
    data: cython.uchar[UNMAP_RANGE]
    lba: uint64_t
    n: uint32_t
    _i: uint32_t
    blocks: uint64_t = 0
    if t.cdb[1] & CdbFlag.ANCHOR:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
        return
    if length > t.out_bytes:
        t.response = Response.OVERRUN
        return
    if length == 0:
        return
    if length < UNMAP_HEADER:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH_ERROR)
        return
    ring.copy_out(t.q, address(data[0]), UNMAP_HEADER, address(t.first))
    n = bigendian.get16(address(data[2])) // UNMAP_RANGE
    if UNMAP_HEADER + n * UNMAP_RANGE > length:
        n = cast(uint32_t, length - UNMAP_HEADER) // UNMAP_RANGE
    if n > t.lun.max_descriptors:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)
        return
    for _i in range(n):
        ring.copy_out(t.q, address(data[0]), UNMAP_RANGE, address(t.first))
        lba = bigendian.get64(address(data[0]))
        length = bigendian.get32(address(data[8]))
        blocks += length
        if blocks > t.lun.max_unmap and t.lun.max_unmap != UINT32_MAX:  # that is no limit
            task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)
            return
        if not _in_range(t, lba, length):
            return
        if disk.zero(t.lun.disk, lba << t.lun.shift, length << t.lun.shift) < 0:
            task.check(t, SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)
            return
    t.moved = bigendian.get16(t.cdb + 7)


def _all_zero(v: IovPtr, n: uint32_t) -> cython.bint:
    i: uint32_t
    j: cython.size_t
    for i in range(n):
        for j in range(v[i].iov_len):
            if cast(CharPtr, v[i].iov_base)[j]:
                return False
    return True


def _write_same(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t, no_data: cython.bint) -> None:
    """SBC-3 §5.45, §5.46. One block, or none (NDOB), for the whole range; a length of 0 is refused (WSNZ)."""
    block: uint64_t = cast(uint64_t, 1) << t.lun.shift
    out: IovPtr = address(t.q.out[t.first])
    n: uint32_t
    ret: cython.int
    if blocks == 0 or blocks > t.lun.max_same or t.cdb[1] & CdbFlag.SAME_PROTECT:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
        return
    if not _in_range(t, lba, blocks):
        return
    if not no_data and block > t.out_bytes:
        t.response = Response.OVERRUN
        return
    t.moved = 0 if no_data else block
    n = task.trim(out, t.q.n_out - t.first, t.moved)
    if no_data or _all_zero(out, n):
        ret = disk.zero(t.lun.disk, lba << t.lun.shift, blocks << t.lun.shift)
    else:
        ret = 0
        while blocks and ret == 0:
            ret = disk.write(t.lun.disk, lba << t.lun.shift, block, out, n)
            lba += 1
            blocks -= 1
    if ret < 0:
        task.check(t, SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)


def is_media(op: uint8_t) -> cython.bint:
    if op == Opcode.READ_10 or op == Opcode.WRITE_10 or op == Opcode.READ_16 or op == Opcode.WRITE_16:
        return True
    if op == Opcode.READ_6 or op == Opcode.WRITE_6 or op == Opcode.READ_12 or op == Opcode.WRITE_12:
        return True
    if op == Opcode.SYNCHRONIZE_CACHE_10 or op == Opcode.SYNCHRONIZE_CACHE_16:
        return True
    return op == Opcode.UNMAP or op == Opcode.WRITE_SAME_10 or op == Opcode.WRITE_SAME_16


def media(t: ScsiTaskPtr) -> None:
    """Commands on blocks, by operation and length of CDB."""
    cdb: BytePtr = cast(BytePtr, t.cdb)
    op: uint8_t = cdb[0]
    lba: uint64_t
    blocks: uint64_t
    group: uint8_t = op >> 5
    if group == 0:
        lba = bigendian.get32(cdb) & 0x1FFFFF
        blocks = cdb[4] if cdb[4] else 256
    elif group == 4:
        lba = bigendian.get64(cdb + 2)
        blocks = bigendian.get32(cdb + 10)
    else:
        lba = bigendian.get32(cdb + 2)
        blocks = bigendian.get32(cdb + 6) if group == 5 else bigendian.get16(cdb + 7)
    if op == Opcode.READ_10 or op == Opcode.READ_16 or op == Opcode.READ_12 or op == Opcode.READ_6:
        if group and cdb[1] & CdbFlag.PROTECT:  # protection information: there is none
            task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
        else:
            _read(t, lba, blocks)
    elif op == Opcode.SYNCHRONIZE_CACHE_10 or op == Opcode.SYNCHRONIZE_CACHE_16:
        _flush_cache(t, lba, blocks)
    elif t.lun.disk.read_only:
        task.check(t, SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)
    elif op == Opcode.UNMAP:
        _unmap(t)
    elif op == Opcode.WRITE_SAME_10 or op == Opcode.WRITE_SAME_16:
        _write_same(t, lba, blocks, op == Opcode.WRITE_SAME_16 and cdb[1] & CdbFlag.NDOB)
    elif group and cdb[1] & CdbFlag.PROTECT:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
    else:
        _write(t, lba, blocks, group != 0 and cdb[1] & CdbFlag.FUA)
