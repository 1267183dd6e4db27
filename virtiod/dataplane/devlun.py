"""SCSI commands on the embedded target's logical units (SPC-4, SBC-3).

What the control plane knows beforehand (INQUIRY, MODE SENSE) is answered from pages that it prepared. A command sets
either moved, the bytes of data that went in or out, or a status with sense data.
"""

from __future__ import annotations

from collections.abc import Sequence

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.dataplane.atomics import (
    vd_fetch_and_u32,
    vd_fetch_or_u32,
    vd_load_ptr,
    vd_load_u32,
    vd_load_u64,
    vd_store_u32,
    vd_store_u64,
    vd_swap32,
    vd_swap64,
)
from cython.cimports.virtiod.dataplane.devdisk import (
    TargetDisk,
    disk_flush,
    disk_read,
    disk_write,
    disk_zero,
)
from cython.cimports.virtiod.dataplane.devlun import (
    ANY_OPCODE,
    ASC_CAPACITY,
    ASC_CDB_FIELD,
    ASC_LIST_FIELD,
    ASC_LIST_LENGTH,
    ASC_LUN,
    ASC_LUNS,
    ASC_NONE,
    ASC_NOT_SAVED,
    ASC_OPCODE,
    ASC_POWER_ON,
    ASC_PROTECTED,
    ASC_RANGE,
    ASC_READ_ERROR,
    ASC_RESET,
    ASC_STOPPED,
    ASC_WRITE_ERROR,
    ATTENTION_CAPACITY,
    ATTENTION_LUNS,
    ATTENTION_POWER_ON,
    ATTENTION_RESET,
    INQUIRY,
    KEY_DATA_PROTECT,
    KEY_ILLEGAL_REQUEST,
    KEY_MEDIUM_ERROR,
    KEY_NO_SENSE,
    KEY_NOT_READY,
    KEY_UNIT_ATTENTION,
    MAX_PAGES,
    MODE_SENSE_6,
    MODE_SENSE_10,
    READ_6,
    READ_10,
    READ_12,
    READ_16,
    READ_CAPACITY_10,
    REPORT_LUNS,
    REQUEST_SENSE,
    RESPONSE_OVERRUN,
    SCSI_FAULT_DEATH,
    SCSI_FAULT_NO_RESPONSE,
    SCSI_FAULT_NONE,
    SCSI_FAULT_RESPONSE,
    SCSI_FAULT_SENSE,
    SCSI_FAULT_SILENCE,
    SCSI_FAULT_STATUS,
    SCSI_FAULT_USED_ID,
    SCSI_FAULT_USED_INDEX,
    SERVICE_ACTION_IN_16,
    START_STOP_UNIT,
    STATUS_CHECK_CONDITION,
    SYNCHRONIZE_CACHE_10,
    SYNCHRONIZE_CACHE_16,
    TEST_UNIT_READY,
    UNMAP,
    WRITE_6,
    WRITE_10,
    WRITE_12,
    WRITE_16,
    WRITE_SAME_10,
    WRITE_SAME_16,
    LunFaultPtr,
    ScsiLun,
    ScsiLunPtr,
    ScsiTargetPtr,
    ScsiTaskPtr,
)
from cython.cimports.virtiod.dataplane.devring import ring_copy_out
from cython.cimports.virtiod.dataplane.structs import BytePtr, CharPtr, IovPtr

FAULTS = {
    "": SCSI_FAULT_NONE,
    "sense": SCSI_FAULT_SENSE,
    "status": SCSI_FAULT_STATUS,
    "response": SCSI_FAULT_RESPONSE,
    "silence": SCSI_FAULT_SILENCE,
    "death": SCSI_FAULT_DEATH,
    "used-id": SCSI_FAULT_USED_ID,
    "used-index": SCSI_FAULT_USED_INDEX,
    "no-response": SCSI_FAULT_NO_RESPONSE,
}
ATTENTIONS = {
    "power-on": ATTENTION_POWER_ON,
    "reset": ATTENTION_RESET,
    "capacity": ATTENTION_CAPACITY,
    "luns": ATTENTION_LUNS,
}


def _be16(p: BytePtr) -> uint16_t:
    return cython.cast(uint16_t, p[0] << 8 | p[1])


def _be32(p: BytePtr) -> uint32_t:
    v: uint32_t
    memcpy(cython.address(v), p, 4)
    return vd_swap32(v)


def _be64(p: BytePtr) -> uint64_t:
    v: uint64_t
    memcpy(cython.address(v), p, 8)
    return vd_swap64(v)


def _put32(p: BytePtr, v: uint32_t) -> None:
    v = vd_swap32(v)
    memcpy(p, cython.address(v), 4)


def target_lun(t: ScsiTargetPtr, number: uint32_t) -> ScsiLunPtr:
    """The LUN of that number, NULL if there is none."""
    i: uint32_t
    lun: ScsiLunPtr
    for i in range(vd_load_u32(cython.address(t.n))):
        lun = cython.cast(ScsiLunPtr, vd_load_ptr(cython.address(t.luns[i])))
        if lun != cython.NULL and lun.number == number:
            return lun
    return cython.NULL


def task_check(t: ScsiTaskPtr, key: uint8_t, asc: uint16_t) -> None:
    """End it with CHECK CONDITION."""
    t.status = STATUS_CHECK_CONDITION
    t.key = key
    t.asc = asc


def _take_attention(lun: ScsiLunPtr) -> uint16_t:
    """The unit attention to tell now, ASC_NONE if there is none; it is told once."""
    waiting: uint32_t = vd_load_u32(cython.address(lun.attention))
    bit: uint32_t = waiting & (0 - waiting)
    if bit == 0 or not vd_fetch_and_u32(cython.address(lun.attention), ~bit) & bit:
        return ASC_NONE
    if bit == ATTENTION_POWER_ON:
        return ASC_POWER_ON
    if bit == ATTENTION_RESET:
        return ASC_RESET
    return ASC_CAPACITY if bit == ATTENTION_CAPACITY else ASC_LUNS


def task_attention(t: ScsiTaskPtr) -> cython.bint:
    """Does a unit attention end the command (SAM-5 §5.14)? INQUIRY, REPORT LUNS and REQUEST SENSE pass."""
    asc: uint16_t
    if t.lun == cython.NULL or vd_load_u32(cython.address(t.lun.attention)) == 0:
        return False
    if t.cdb[0] == INQUIRY or t.cdb[0] == REPORT_LUNS or t.cdb[0] == REQUEST_SENSE:
        return False
    asc = _take_attention(t.lun)
    if asc == ASC_NONE:
        return False
    task_check(t, KEY_UNIT_ATTENTION, asc)
    return True


def _trim(v: IovPtr, n: uint32_t, total: uint64_t) -> uint32_t:
    """Cut the segments to total bytes, which they have; how many there are then."""
    i: uint32_t
    for i in range(n):
        if total == 0:
            return i
        if v[i].iov_len > total:
            v[i].iov_len = total
        total -= v[i].iov_len
    return n


def _reply(t: ScsiTaskPtr, data: BytePtr, n: uint64_t, allocated: uint64_t) -> None:
    """Data-in of at most the allocation length. A buffer that is smaller than that is an overrun, as QEMU has it."""
    i: uint32_t
    take: uint64_t
    if allocated > t.in_bytes:
        t.response = RESPONSE_OVERRUN
        return
    if n > allocated:
        n = allocated
    for i in range(_trim(t.into, t.n_in, n)):
        take = t.into[i].iov_len
        memcpy(t.into[i].iov_base, data + t.moved, take)
        t.moved += take


# ---- what a unit says of itself -----------------------------------------------------------------


def _request_sense(t: ScsiTaskPtr) -> None:
    """Unit attentions are told here too (SPC-4 §6.39); there is never other sense data left."""
    sense: cython.uchar[18]
    asc: uint16_t = ASC_LUN
    key: uint8_t = KEY_ILLEGAL_REQUEST
    if t.lun != cython.NULL:
        asc = _take_attention(t.lun)
        key = KEY_NO_SENSE if asc == ASC_NONE else KEY_UNIT_ATTENTION
    memset(cython.address(sense[0]), 0, 18)
    if t.cdb[1] & 1:
        sense[0], sense[1] = 0x72, key
        sense[2], sense[3] = cython.cast(uint8_t, asc >> 8), cython.cast(uint8_t, asc)
        _reply(t, cython.address(sense[0]), 8, t.cdb[4])
    else:
        sense[0], sense[2], sense[7] = 0x70, key, 10
        sense[12], sense[13] = cython.cast(uint8_t, asc >> 8), cython.cast(uint8_t, asc)
        _reply(t, cython.address(sense[0]), 18, t.cdb[4])


def _prepared(t: ScsiTaskPtr) -> None:
    """INQUIRY (SPC-4 §6.6) and MODE SENSE (§6.13, §6.14)."""
    op: uint8_t = t.cdb[0]
    evpd: uint8_t = t.cdb[1] & 1 if op == INQUIRY else 0
    allocated: uint64_t = _be16(t.cdb + 3)
    i: uint32_t
    if op == MODE_SENSE_6:
        allocated = t.cdb[4]
    elif op == MODE_SENSE_10:
        allocated = _be16(t.cdb + 7)
    if op != INQUIRY and t.cdb[2] >> 6 == 3:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_NOT_SAVED)
        return
    if op == INQUIRY or t.cdb[3] == 0 or (t.cdb[3] == 0xFF and t.cdb[2] & 0x3F == 0x3F):
        for i in range(t.lun.n_pages):
            if t.lun.pages[i].opcode == op and t.lun.pages[i].evpd == evpd and t.lun.pages[i].code == t.cdb[2]:
                _reply(t, t.lun.pages[i].data, t.lun.pages[i].length, allocated)
                return
    task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)


def _report_luns(t: ScsiTaskPtr) -> None:
    """All LUNs of the target, peripheral addressing below 256 and flat above (SPC-4 §6.33, SAM-5 §4.7)."""
    data: cython.uchar[2056]
    n: uint32_t = 8
    i: uint32_t
    number: uint32_t
    lun: ScsiLunPtr
    allocated: uint32_t = _be32(t.cdb + 6)
    if t.cdb[2] > 2 or allocated < 16:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
        return
    memset(cython.address(data[0]), 0, 2056)
    if t.cdb[2] != 1:  # 1: well-known ones only
        for i in range(vd_load_u32(cython.address(t.target.n))):
            lun = cython.cast(ScsiLunPtr, vd_load_ptr(cython.address(t.target.luns[i])))
            if lun != cython.NULL:
                number = lun.number
                data[n] = 0 if number < 256 else cython.cast(uint8_t, 0x40 | number >> 8)
                data[n + 1] = cython.cast(uint8_t, number)
                n += 8
    _put32(cython.address(data[0]), n - 8)
    _reply(t, cython.address(data[0]), n, allocated)


def _capacity(t: ScsiTaskPtr) -> None:
    """READ CAPACITY(10) and (16) (SBC-3 §5.15, §5.16)."""
    data: cython.uchar[32]
    last: uint64_t = (vd_load_u64(cython.address(t.lun.disk.size)) >> t.lun.shift) - 1
    block: uint32_t = cython.cast(uint32_t, 1) << t.lun.shift
    memset(cython.address(data[0]), 0, 32)
    if t.cdb[0] == READ_CAPACITY_10:
        _put32(cython.address(data[0]), 0xFFFFFFFF if last >> 32 else cython.cast(uint32_t, last))
        _put32(cython.address(data[4]), block)
        _reply(t, cython.address(data[0]), 8, 8)
    elif t.cdb[1] & 0x1F != 0x10:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    else:
        _put32(cython.address(data[0]), cython.cast(uint32_t, last >> 32))
        _put32(cython.address(data[4]), cython.cast(uint32_t, last))
        _put32(cython.address(data[8]), block)
        data[14] = 0xC0  # LBPME, LBPRZ: unmapped blocks read as zeroes
        _reply(t, cython.address(data[0]), 32, _be32(t.cdb + 10))


# ---- what it does with its blocks ---------------------------------------------------------------


def _in_range(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> cython.bint:
    total: uint64_t = vd_load_u64(cython.address(t.lun.disk.size)) >> t.lun.shift
    if lba > total or blocks > total - lba:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_RANGE)
        return False
    return True


def _read(t: ScsiTaskPtr, lba: uint64_t, blocks: uint64_t) -> None:
    total: uint64_t = blocks << t.lun.shift
    if blocks > t.lun.max_transfer:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
    elif not _in_range(t, lba, blocks):
        return
    elif total > t.in_bytes:
        t.response = RESPONSE_OVERRUN
    elif disk_read(t.lun.disk, lba << t.lun.shift, total, t.into, _trim(t.into, t.n_in, total)) < 0:
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
    elif disk_write(t.lun.disk, lba << t.lun.shift, total, out, _trim(out, t.q.n_out - t.first, total)) < 0:
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
    length: uint64_t = _be16(t.cdb + 7)
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
    n = _be16(cython.address(data[2])) >> 4
    if 8 + (n << 4) > length:
        n = cython.cast(uint32_t, length - 8) >> 4
    if n > t.lun.max_descriptors:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD)
        return
    for i in range(n):
        ring_copy_out(t.q, cython.address(data[0]), 16, cython.address(t.first))
        lba = _be64(cython.address(data[0]))
        length = _be32(cython.address(data[8]))
        blocks += length
        if blocks > t.lun.max_unmap:
            task_check(t, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD)
            return
        if not _in_range(t, lba, length):
            return
        if disk_zero(t.lun.disk, lba << t.lun.shift, length << t.lun.shift) < 0:
            task_check(t, KEY_MEDIUM_ERROR, ASC_WRITE_ERROR)
            return
    t.moved = _be16(t.cdb + 7)


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
    n = _trim(out, t.q.n_out - t.first, t.moved)
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


def _is_media(op: uint8_t) -> cython.bint:
    if op == READ_6 or op == READ_10 or op == READ_12 or op == READ_16:
        return True
    if op == WRITE_6 or op == WRITE_10 or op == WRITE_12 or op == WRITE_16:
        return True
    if op == SYNCHRONIZE_CACHE_10 or op == SYNCHRONIZE_CACHE_16:
        return True
    return op == UNMAP or op == WRITE_SAME_10 or op == WRITE_SAME_16


def _media(t: ScsiTaskPtr) -> None:
    """Commands on blocks, by operation and length of CDB."""
    cdb: BytePtr = cython.cast(BytePtr, t.cdb)
    op: uint8_t = cdb[0]
    lba: uint64_t
    blocks: uint64_t
    group: uint8_t = op >> 5
    if group == 0:
        lba = _be32(cdb) & 0x1FFFFF
        blocks = cdb[4] if cdb[4] else 256
    elif group == 4:
        lba = _be64(cdb + 2)
        blocks = _be32(cdb + 10)
    else:
        lba = _be32(cdb + 2)
        blocks = _be32(cdb + 6) if group == 5 else _be16(cdb + 7)
    if op == SYNCHRONIZE_CACHE_10 or op == SYNCHRONIZE_CACHE_16:
        _flush_cache(t, lba, blocks)
    elif op == READ_6 or op == READ_10 or op == READ_12 or op == READ_16:
        if group and cdb[1] & 0xE0:  # protection information: there is none
            task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)
        else:
            _read(t, lba, blocks)
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


# ---- all commands -------------------------------------------------------------------------------


def _absent(t: ScsiTaskPtr) -> None:
    """A LUN that is not there (SPC-4 §6.6.2): INQUIRY says so, REPORT LUNS and REQUEST SENSE work."""
    data: cython.uchar[36]
    if t.cdb[0] == INQUIRY:
        memset(cython.address(data[0]), 0, 36)
        data[0], data[2], data[3], data[4] = 0x7F, 6, 2, 31
        _reply(t, cython.address(data[0]), 36, _be16(t.cdb + 3))
    else:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_LUN)


def task_execute(t: ScsiTaskPtr) -> None:
    """Carry out the command; its end is in t."""
    op: uint8_t = t.cdb[0]
    if op == REPORT_LUNS:
        _report_luns(t)
    elif op == REQUEST_SENSE:
        _request_sense(t)
    elif t.lun == cython.NULL:
        _absent(t)
    elif op == INQUIRY or op == MODE_SENSE_6 or op == MODE_SENSE_10:
        _prepared(t)
    elif op == START_STOP_UNIT:
        vd_store_u32(cython.address(t.lun.stopped), not t.cdb[4] & 1)
    elif op == TEST_UNIT_READY or op == READ_CAPACITY_10 or op == SERVICE_ACTION_IN_16 or _is_media(op):
        if vd_load_u32(cython.address(t.lun.stopped)):
            task_check(t, KEY_NOT_READY, ASC_STOPPED)
        elif op == READ_CAPACITY_10 or op == SERVICE_ACTION_IN_16:
            _capacity(t)
        elif op != TEST_UNIT_READY:
            _media(t)
    else:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_OPCODE)


class TargetLun:
    """A logical unit over a disk. pages: (opcode, evpd, code, answer); limits in blocks."""

    lun: ScsiLun
    disk: TargetDisk
    keep: object

    def __init__(
        self,
        number: int,
        disk: TargetDisk,
        block_size: int,
        pages: Sequence[tuple[int, int, int, bytes]],
        stopped: bool,
        max_transfer: int,
        max_unmap: int,
        max_descriptors: int,
        max_same: int,
    ) -> None:
        answer: bytes
        if len(pages) > MAX_PAGES:
            raise ValueError(f"{len(pages)} pages, at most {MAX_PAGES} work")
        self.disk = disk
        self.keep = pages
        self.lun.disk = cython.address(disk.disk)
        self.lun.number = number
        self.lun.shift = block_size.bit_length() - 1
        self.lun.stopped = stopped
        self.lun.max_transfer = max_transfer
        self.lun.max_unmap = max_unmap
        self.lun.max_descriptors = max_descriptors
        self.lun.max_same = max_same
        self.lun.attention = ATTENTION_POWER_ON
        self.lun.n_pages = len(pages)
        for i, (opcode, evpd, code, answer) in enumerate(pages):
            self.lun.pages[i].opcode = opcode
            self.lun.pages[i].evpd = evpd
            self.lun.pages[i].code = code
            self.lun.pages[i].length = len(answer)
            self.lun.pages[i].data = answer

    def attention(self, what: str) -> None:
        """Have the next command end with a unit attention: one of ATTENTIONS."""
        vd_fetch_or_u32(cython.address(self.lun.attention), ATTENTIONS[what])

    def resize(self, size: int) -> None:
        """Change the size in bytes; memory or file must be there."""
        vd_store_u64(cython.address(self.lun.disk.size), size)

    def fault(
        self,
        kind: str,
        after: int = 0,
        every: int = 0,
        times: int = 0,
        delay_us: int = 0,
        opcode: int | None = None,
        key: int = 0,
        asc: int = 0,
        ascq: int = 0,
        value: int = 0,
        descriptor: bool = False,
        sense_length: int = 18,
    ) -> None:
        """Spoil commands (of one opcode, or any) from now on, after so many good ones: all, or each so many."""
        f: LunFaultPtr = cython.address(self.lun.fault)
        vd_store_u32(cython.address(f.kind), SCSI_FAULT_NONE)
        f.seen = f.spoiled = 0
        f.after, f.every, f.times, f.delay_ns = after, every, times, delay_us * 1000
        f.opcode = ANY_OPCODE if opcode is None else opcode
        f.key, f.asc, f.value = key, asc << 8 | ascq, value
        f.descriptor, f.sense_length = descriptor, sense_length
        vd_store_u32(cython.address(f.kind), FAULTS[kind])

    def spoiled(self) -> int:
        """Commands that the fault hit since it was set."""
        return vd_load_u64(cython.address(self.lun.fault.spoiled))
