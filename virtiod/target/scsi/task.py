"""How a SCSI command of the embedded target begins and ends: attentions, sense data, the data that is sent back."""

from __future__ import annotations

import cython
from cython import NULL, address
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, IovPtr
from cython.cimports.virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from cython.cimports.virtiod.target.scsi.lun import lun_attention
from cython.cimports.virtiod.target.scsi.task import ScsiTaskPtr
from cython.cimports.virtiod.virtio.scsi import Response


def check(t: ScsiTaskPtr, key: uint8_t, asc: uint16_t) -> None:
    """End it with CHECK CONDITION."""
    t.status = Status.CHECK_CONDITION
    t.key = key
    t.asc = asc


def attention(t: ScsiTaskPtr) -> cython.bint:
    """Does a unit attention end the command (SAM-5 §5.14)? INQUIRY, REPORT LUNS and REQUEST SENSE pass."""
    asc: uint16_t
    if t.lun == NULL or atomics.load_u32(address(t.lun.attention)) == 0:
        return False
    if t.cdb[0] == Opcode.INQUIRY or t.cdb[0] == Opcode.REPORT_LUNS or t.cdb[0] == Opcode.REQUEST_SENSE:
        return False
    asc = lun_attention(t.lun)
    if asc == Asc.NO_ADDITIONAL_SENSE:
        return False
    check(t, SenseKey.UNIT_ATTENTION, asc)
    return True


def trim(v: IovPtr, n: uint32_t, total: uint64_t) -> uint32_t:
    """Cut the segments to total bytes, which they have; how many there are then."""
    i: uint32_t
    for i in range(n):
        if total == 0:
            return i
        v[i].iov_len = min(v[i].iov_len, total)
        total -= v[i].iov_len
    return n


def reply(t: ScsiTaskPtr, data: BytePtr, n: uint64_t, allocated: uint64_t) -> None:
    """Data-in of at most the allocation length. A buffer that is smaller than that is an overrun, as QEMU has it."""
    i: uint32_t
    take: uint64_t
    if allocated > t.in_bytes:
        t.response = Response.OVERRUN
        return
    n = min(n, allocated)
    for i in range(trim(t.into, t.n_in, n)):
        take = t.into[i].iov_len
        memcpy(t.into[i].iov_base, data + t.moved, take)
        t.moved += take
