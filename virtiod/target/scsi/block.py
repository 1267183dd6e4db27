"""What the embedded target's logical units do with their blocks (SBC-3).

A command sets either moved, the bytes of data that went in or out, or a status with sense data.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import UINT32_MAX, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core.atomics import vd_load_u64
from cython.cimports.virtiod.core.bigendian import be16, be32, be64, put_be32
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, IovPtr
from cython.cimports.virtiod.target.disk import disk_flush, disk_read, disk_write, disk_zero
from cython.cimports.virtiod.target.ring import ring_copy_out
from cython.cimports.virtiod.target.scsi.lun import (
    ASC_CDB_FIELD,
    ASC_LIST_FIELD,
    ASC_LIST_LENGTH,
    ASC_PROTECTED,
    ASC_RANGE,
    ASC_READ_ERROR,
    ASC_WRITE_ERROR,
    KEY_DATA_PROTECT,
    KEY_ILLEGAL_REQUEST,
    KEY_MEDIUM_ERROR,
    READ_6,
    READ_10,
    READ_12,
    READ_16,
    READ_CAPACITY_10,
    RESPONSE_OVERRUN,
    SYNCHRONIZE_CACHE_10,
    SYNCHRONIZE_CACHE_16,
    UNMAP,
    WRITE_6,
    WRITE_10,
    WRITE_12,
    WRITE_16,
    WRITE_SAME_10,
    WRITE_SAME_16,
    ScsiTaskPtr,
    task_check,
    task_reply,
    task_trim,
)


def _in_range(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> cython.bint:
    total: uint64_t = vd_load_u64(cython.address(t.lun.disk.size)) >> t.lun.shift
    if lba > total or blocks > total - lba:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_RANGE)
        return False
    return True


def task_capacity(t: ScsiTaskPtr) -> None:
    """READ CAPACITY(10) and (16) (SBC-3 §5.15, §5.16)."""
    data: cython.uchar[32]
    last: uint64_t = (vd_load_u64(cython.address(t.lun.disk.size)) >> t.lun.shift) - 1
    block: uint32_t = cython.cast(uint32_t, 1) << t.lun.shift
    memset(cython.address(data[0]), 0, 32)
    if t.cdb[0] == READ_CAPACITY_10:
        put_be32(cython.address(data[0]), 0xFFFFFFFF if last >> 32 else cython.cast(uint32_t, last))
        put_be32(cython.address(data[4]), block)
        task_reply(t, cython.address(data[0]), 8, 8)
    elif t.cdb[1] & 0x1F != 0x10:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    else:
        put_be32(cython.address(data[0]), cython.cast(uint32_t, last >> 32))
        put_be32(cython.address(data[4]), cython.cast(uint32_t, last))
        put_be32(cython.address(data[8]), block)
        data[14] = 0xC0  # LBPME, LBPRZ: unmapped blocks read as zeroes
        task_reply(t, cython.address(data[0]), 32, be32(t.cdb + 10))


def _read(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> None:
    total: uint64_t = blocks << t.lun.shift
    if blocks > t.lun.max_transfer:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    elif not _in_range(t, lba, blocks):
        return
    elif total > t.in_bytes:
        t.response = RESPONSE_OVERRUN
    elif disk_read(t.lun.disk, lba << t.lun.shift, total, t.into, task_trim(t.into, t.n_in, total)) < 0:
        task_check(t, KEY_MEDIUM_ERROR, ASC_READ_ERROR)
    else:
        t.moved = total


def _write(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t, fua: cython.bint) -> None:
    total: uint64_t = blocks << t.lun.shift
    out: IovPtr = cython.address(t.q.out[t.first])
    if blocks > t.lun.max_transfer:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    elif not _in_range(t, lba, blocks):
        return
    elif total > t.out_bytes:
        t.response = RESPONSE_OVERRUN
    elif disk_write(t.lun.disk, lba << t.lun.shift, total, out, task_trim(out, t.q.n_out - t.first, total)) < 0:
        task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)
    elif fua and disk_flush(t.lun.disk) < 0:
        task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)
    else:
        t.moved = total


def _flush_cache(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> None:
    if _in_range(t, lba, blocks) and disk_flush(t.lun.disk) < 0:
        task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)


def _unmap(t: ScsiTaskPtr) -> None:
    """SBC-3 §5.28. Ranges are looked at one by one; what came before a bad one is unmapped."""
    length: uint64_t = be16(t.cdb + 7)
    data: cython.uchar[16]
    lba: uint64_t
    n: uint32_t
    i: uint32_t
    blocks: uint64_t = 0
    if t.cdb[1] & 1:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
        return
    if length > t.out_bytes:
        t.response = RESPONSE_OVERRUN
        return
    if length == 0:
        return
    if length < 8:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH)
        return
    ring_copy_out(t.q, cython.address(data[0]), 8, cython.address(t.first))
    n = be16(cython.address(data[2])) >> 4
    if 8 + (n << 4) > length:
        n = cython.cast(uint32_t, length - 8) >> 4
    if n > t.lun.max_descriptors:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD)
        return
    for i in range(n):
        ring_copy_out(t.q, cython.address(data[0]), 16, cython.address(t.first))
        lba = be64(cython.address(data[0]))
        length = be32(cython.address(data[8]))
        blocks += length
        if blocks > t.lun.max_unmap and t.lun.max_unmap != UINT32_MAX:  # that is no limit
            task_check(t, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD)
            return
        if not _in_range(t, lba, length):
            return
        if disk_zero(t.lun.disk, lba << t.lun.shift, length << t.lun.shift) < 0:
            task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)
            return
    t.moved = be16(t.cdb + 7)


def _all_zero(v: IovPtr, n: uint32_t) -> cython.bint:
    i: uint32_t
    j: cython.size_t
    for i in range(n):
        for j in range(v[i].iov_len):
            if cython.cast(CharPtr, v[i].iov_base)[j]:
                return False
    return True


def _write_same(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t, no_data: cython.bint) -> None:
    """SBC-3 §5.45, §5.46. One block, or none (NDOB), for the whole range; a length of 0 is refused (WSNZ)."""
    block: uint64_t = cython.cast(uint64_t, 1) << t.lun.shift
    out: IovPtr = cython.address(t.q.out[t.first])
    n: uint32_t
    ret: cython.int
    if blocks == 0 or blocks > t.lun.max_same or t.cdb[1] & 0xF0:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
        return
    if not _in_range(t, lba, blocks):
        return
    if not no_data and block > t.out_bytes:
        t.response = RESPONSE_OVERRUN
        return
    t.moved = 0 if no_data else block
    n = task_trim(out, t.q.n_out - t.first, t.moved)
    if no_data or _all_zero(out, n):
        ret = disk_zero(t.lun.disk, lba << t.lun.shift, blocks << t.lun.shift)
    else:
        ret = 0
        while blocks and ret == 0:
            ret = disk_write(t.lun.disk, lba << t.lun.shift, block, out, n)
            lba += 1
            blocks -= 1
    if ret < 0:
        task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)


def is_media(op: uint8_t) -> cython.bint:
    if op == READ_10 or op == WRITE_10 or op == READ_16 or op == WRITE_16:
        return True
    if op == READ_6 or op == WRITE_6 or op == READ_12 or op == WRITE_12:
        return True
    if op == SYNCHRONIZE_CACHE_10 or op == SYNCHRONIZE_CACHE_16:
        return True
    return op == UNMAP or op == WRITE_SAME_10 or op == WRITE_SAME_16


def task_media(t: ScsiTaskPtr) -> None:
    """Commands on blocks, by operation and length of CDB."""
    cdb: BytePtr = cython.cast(BytePtr, t.cdb)
    op: uint8_t = cdb[0]
    lba: uint64_t
    blocks: uint64_t
    group: uint8_t = op >> 5
    if group == 0:
        lba = be32(cdb) & 0x1FFFFF
        blocks = cdb[4] if cdb[4] else 256
    elif group == 4:
        lba = be64(cdb + 2)
        blocks = be32(cdb + 10)
    else:
        lba = be32(cdb + 2)
        blocks = be32(cdb + 6) if group == 5 else be16(cdb + 7)
    if op == READ_10 or op == READ_16 or op == READ_12 or op == READ_6:
        if group and cdb[1] & 0xE0:  # protection information: there is none
            task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
        else:
            _read(t, lba, blocks)
    elif op == SYNCHRONIZE_CACHE_10 or op == SYNCHRONIZE_CACHE_16:
        _flush_cache(t, lba, blocks)
    elif t.lun.disk.read_only:
        task_check(t, KEY_DATA_PROTECT, ASC_PROTECTED)
    elif op == UNMAP:
        _unmap(t)
    elif op == WRITE_SAME_10 or op == WRITE_SAME_16:
        _write_same(t, lba, blocks, op == WRITE_SAME_16 and cdb[1] & 1)
    elif group and cdb[1] & 0xE0:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    else:
        _write(t, lba, blocks, group != 0 and cdb[1] & 8)
