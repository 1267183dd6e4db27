"""The commands that the embedded target's logical units carry out; those on blocks are in devsbc (SPC-4).

What the control plane knows beforehand (INQUIRY, MODE SENSE) is answered from pages that it prepared.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core.atomics import vd_load_ptr, vd_load_u32, vd_store_u32
from cython.cimports.virtiod.core.bigendian import be16, be32, put_be32
from cython.cimports.virtiod.target.scsi.block import is_media, task_capacity, task_media
from cython.cimports.virtiod.target.scsi.lun import (
    ASC_CDB_FIELD,
    ASC_LUN,
    ASC_NONE,
    ASC_NOT_SAVED,
    ASC_OPCODE,
    ASC_STOPPED,
    INQUIRY,
    KEY_ILLEGAL_REQUEST,
    KEY_NO_SENSE,
    KEY_NOT_READY,
    KEY_UNIT_ATTENTION,
    MODE_SENSE_6,
    MODE_SENSE_10,
    READ_CAPACITY_10,
    REPORT_LUNS,
    REQUEST_SENSE,
    SERVICE_ACTION_IN_16,
    START_STOP_UNIT,
    TEST_UNIT_READY,
    ScsiLunPtr,
    ScsiTaskPtr,
    lun_attention,
    task_check,
    task_reply,
)


def _request_sense(t: ScsiTaskPtr) -> None:
    """Unit attentions are told here too (SPC-4 §6.39); there is never other sense data left."""
    sense: cython.uchar[18]
    asc: uint16_t = ASC_LUN
    key: uint8_t = KEY_ILLEGAL_REQUEST
    if t.lun != cython.NULL:
        asc = lun_attention(t.lun)
        key = KEY_NO_SENSE if asc == ASC_NONE else KEY_UNIT_ATTENTION
    memset(cython.address(sense[0]), 0, 18)
    if t.cdb[1] & 1:
        sense[0], sense[1] = 0x72, key
        sense[2], sense[3] = cython.cast(uint8_t, asc >> 8), cython.cast(uint8_t, asc)
        task_reply(t, cython.address(sense[0]), 8, t.cdb[4])
    else:
        sense[0], sense[2], sense[7] = 0x70, key, 10
        sense[12], sense[13] = cython.cast(uint8_t, asc >> 8), cython.cast(uint8_t, asc)
        task_reply(t, cython.address(sense[0]), 18, t.cdb[4])


def _prepared(t: ScsiTaskPtr) -> None:
    """INQUIRY (SPC-4 §6.6) and MODE SENSE (§6.13, §6.14)."""
    op: uint8_t = t.cdb[0]
    evpd: uint8_t = t.cdb[1] & 1 if op == INQUIRY else 0
    allocated: uint64_t = be16(t.cdb + 3)
    i: uint32_t
    if op == MODE_SENSE_6:
        allocated = t.cdb[4]
    elif op == MODE_SENSE_10:
        allocated = be16(t.cdb + 7)
    if op != INQUIRY and t.cdb[2] >> 6 == 3:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_NOT_SAVED)
        return
    if op == INQUIRY or t.cdb[3] == 0 or (t.cdb[3] == 0xFF and t.cdb[2] & 0x3F == 0x3F):
        for i in range(t.lun.n_pages):
            if t.lun.pages[i].opcode == op and t.lun.pages[i].evpd == evpd and t.lun.pages[i].code == t.cdb[2]:
                task_reply(t, t.lun.pages[i].data, t.lun.pages[i].length, allocated)
                return
    task_check(t, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD)


def _report_luns(t: ScsiTaskPtr) -> None:
    """All LUNs of the target, peripheral addressing below 256 and flat above (SPC-4 §6.33, SAM-5 §4.7)."""
    data: cython.uchar[2056]
    n: uint32_t = 8
    i: uint32_t
    number: uint32_t
    lun: ScsiLunPtr
    allocated: uint32_t = be32(t.cdb + 6)
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
    put_be32(cython.address(data[0]), n - 8)
    task_reply(t, cython.address(data[0]), n, allocated)


def _absent(t: ScsiTaskPtr) -> None:
    """A LUN that is not there (SPC-4 §6.6.2): INQUIRY says so, REPORT LUNS and REQUEST SENSE work."""
    data: cython.uchar[36]
    if t.cdb[0] == INQUIRY:
        memset(cython.address(data[0]), 0, 36)
        data[0], data[2], data[3], data[4] = 0x7F, 6, 2, 31
        task_reply(t, cython.address(data[0]), 36, be16(t.cdb + 3))
    else:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_LUN)


def _medium(t: ScsiTaskPtr) -> None:
    """What a stopped unit does not do."""
    op: uint8_t = t.cdb[0]
    if vd_load_u32(cython.address(t.lun.stopped)):
        task_check(t, KEY_NOT_READY, ASC_STOPPED)
    elif op == READ_CAPACITY_10 or op == SERVICE_ACTION_IN_16:
        task_capacity(t)
    elif op != TEST_UNIT_READY:
        task_media(t)


def task_execute(t: ScsiTaskPtr) -> None:
    """Carry out the command; its end is in t."""
    op: uint8_t = t.cdb[0]
    if t.lun != cython.NULL and is_media(op):
        _medium(t)
    elif op == REPORT_LUNS:
        _report_luns(t)
    elif op == REQUEST_SENSE:
        _request_sense(t)
    elif t.lun == cython.NULL:
        _absent(t)
    elif op == INQUIRY or op == MODE_SENSE_6 or op == MODE_SENSE_10:
        _prepared(t)
    elif op == START_STOP_UNIT:
        vd_store_u32(cython.address(t.lun.stopped), not t.cdb[4] & 1)
    elif op == TEST_UNIT_READY or op == READ_CAPACITY_10 or op == SERVICE_ACTION_IN_16:
        _medium(t)
    else:
        task_check(t, KEY_ILLEGAL_REQUEST, ASC_OPCODE)
