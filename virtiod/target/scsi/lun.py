"""SCSI logical units of the embedded target: what they are, what is wrong with them, and how a command ends."""

from __future__ import annotations

from collections.abc import Sequence

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.core.atomics import (
    vd_fetch_and_u32,
    vd_fetch_or_u32,
    vd_load_ptr,
    vd_load_u32,
    vd_load_u64,
    vd_store_u32,
    vd_store_u64,
)
from cython.cimports.virtiod.core.types import BytePtr, IovPtr
from cython.cimports.virtiod.target.disk import TargetDisk
from cython.cimports.virtiod.target.scsi.lun import (
    ANY_OPCODE,
    ASC_CAPACITY,
    ASC_LUNS,
    ASC_NONE,
    ASC_POWER_ON,
    ASC_RESET,
    ATTENTION_CAPACITY,
    ATTENTION_LUNS,
    ATTENTION_POWER_ON,
    ATTENTION_RESET,
    INQUIRY,
    KEY_UNIT_ATTENTION,
    MAX_PAGES,
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
    STATUS_CHECK_CONDITION,
    LunFaultPtr,
    ScsiLun,
    ScsiLunPtr,
    ScsiTargetPtr,
    ScsiTaskPtr,
)

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


def lun_attention(lun: ScsiLunPtr) -> uint16_t:
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
    asc = lun_attention(t.lun)
    if asc == ASC_NONE:
        return False
    task_check(t, KEY_UNIT_ATTENTION, asc)
    return True


def task_trim(v: IovPtr, n: uint32_t, total: uint64_t) -> uint32_t:
    """Cut the segments to total bytes, which they have; how many there are then."""
    i: uint32_t
    for i in range(n):
        if total == 0:
            return i
        if v[i].iov_len > total:
            v[i].iov_len = total
        total -= v[i].iov_len
    return n


def task_reply(t: ScsiTaskPtr, data: BytePtr, n: uint64_t, allocated: uint64_t) -> None:
    """Data-in of at most the allocation length. A buffer that is smaller than that is an overrun, as QEMU has it."""
    i: uint32_t
    take: uint64_t
    if allocated > t.in_bytes:
        t.response = RESPONSE_OVERRUN
        return
    if n > allocated:
        n = allocated
    for i in range(task_trim(t.into, t.n_in, n)):
        take = t.into[i].iov_len
        memcpy(t.into[i].iov_base, data + t.moved, take)
        t.moved += take


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
