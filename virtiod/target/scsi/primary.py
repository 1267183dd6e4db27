"""The commands that the embedded target's logical units carry out; those on blocks are in block.py (SPC-4).

What the control plane knows beforehand (INQUIRY, MODE SENSE) is answered from pages that it prepared.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core import atomics, bigendian
from cython.cimports.virtiod.scsi import sense
from cython.cimports.virtiod.scsi.spec import FIXED_SENSE, Asc, CdbFlag, ModePage, Opcode, PeripheralQualifier, SenseKey
from cython.cimports.virtiod.target.scsi import block, task
from cython.cimports.virtiod.target.scsi.lun import LUN_LIST, ScsiLunPtr, lun_attention
from cython.cimports.virtiod.target.scsi.task import ScsiTaskPtr


def _request_sense(t: ScsiTaskPtr) -> None:
    """Unit attentions are told here too (SPC-4 §6.39); there is never other sense data left."""
    data: cython.uchar[FIXED_SENSE]
    asc: uint16_t = Asc.LUN_NOT_SUPPORTED
    key: uint8_t = SenseKey.ILLEGAL_REQUEST
    n: uint32_t
    if t.lun != NULL:
        asc = lun_attention(t.lun)
        key = SenseKey.NO_SENSE if asc == Asc.NO_ADDITIONAL_SENSE else SenseKey.UNIT_ATTENTION
    n = sense.encode(address(data[0]), key, asc, t.cdb[1] & CdbFlag.DESC)
    task.reply(t, address(data[0]), n, t.cdb[4])


def _prepared(t: ScsiTaskPtr) -> None:
    """INQUIRY (SPC-4 §6.6) and MODE SENSE (§6.13, §6.14)."""
    op: uint8_t = t.cdb[0]
    evpd: uint8_t = t.cdb[1] & CdbFlag.EVPD if op == Opcode.INQUIRY else 0
    allocated: uint64_t = bigendian.get16(t.cdb + 3)
    i: uint32_t
    if op == Opcode.MODE_SENSE_6:
        allocated = t.cdb[4]
    elif op == Opcode.MODE_SENSE_10:
        allocated = bigendian.get16(t.cdb + 7)
    if op != Opcode.INQUIRY and t.cdb[2] >> 6 == 3:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.SAVING_NOT_SUPPORTED)
        return
    if op == Opcode.INQUIRY or t.cdb[3] == 0 or (t.cdb[3] == 0xFF and t.cdb[2] & 0x3F == ModePage.ALL_PAGES):
        for i in range(t.lun.n_pages):
            if t.lun.pages[i].opcode == op and t.lun.pages[i].evpd == evpd and t.lun.pages[i].code == t.cdb[2]:
                task.reply(t, t.lun.pages[i].data, t.lun.pages[i].length, allocated)
                return
    task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)


def _report_luns(t: ScsiTaskPtr) -> None:
    """All LUNs of the target, peripheral addressing below 256 and flat above (SPC-4 §6.33, SAM-5 §4.7)."""
    data: cython.uchar[LUN_LIST]
    n: uint32_t = 8
    i: uint32_t
    number: uint32_t
    lun: ScsiLunPtr
    allocated: uint32_t = bigendian.get32(t.cdb + 6)
    if t.cdb[2] > 2 or allocated < 16:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
        return
    memset(address(data[0]), 0, LUN_LIST)
    if t.cdb[2] != 1:  # 1: well-known ones only
        for i in range(atomics.load_u32(address(t.target.n))):
            lun = cast(ScsiLunPtr, atomics.load_ptr(address(t.target.luns[i])))
            if lun != NULL:
                number = lun.number
                data[n] = 0 if number < 256 else cast(uint8_t, 0x40 | number >> 8)
                data[n + 1] = cast(uint8_t, number)
                n += 8
    bigendian.put32(address(data[0]), n - 8)
    task.reply(t, address(data[0]), n, allocated)


def _absent(t: ScsiTaskPtr) -> None:
    """A LUN that is not there (SPC-4 §6.6.2): INQUIRY says so, REPORT LUNS and REQUEST SENSE work."""
    data: cython.uchar[36]
    if t.cdb[0] == Opcode.INQUIRY:
        memset(address(data[0]), 0, 36)
        data[0], data[2], data[3], data[4] = PeripheralQualifier.NOT_CAPABLE << 5 | 0x1F, 6, 2, 31
        task.reply(t, address(data[0]), 36, bigendian.get16(t.cdb + 3))
    else:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)


def _medium(t: ScsiTaskPtr) -> None:
    """What a stopped unit does not do."""
    op: uint8_t = t.cdb[0]
    if atomics.load_u32(address(t.lun.stopped)):
        task.check(t, SenseKey.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
    elif op == Opcode.READ_CAPACITY_10 or op == Opcode.SERVICE_ACTION_IN_16:
        block.capacity(t)
    elif op != Opcode.TEST_UNIT_READY:
        block.media(t)


def execute(t: ScsiTaskPtr) -> None:
    """Carry out the command; its end is in t."""
    op: uint8_t = t.cdb[0]
    if t.lun != NULL and block.is_media(op):
        _medium(t)
    elif op == Opcode.REPORT_LUNS:
        _report_luns(t)
    elif op == Opcode.REQUEST_SENSE:
        _request_sense(t)
    elif t.lun == NULL:
        _absent(t)
    elif op == Opcode.INQUIRY or op == Opcode.MODE_SENSE_6 or op == Opcode.MODE_SENSE_10:
        _prepared(t)
    elif op == Opcode.START_STOP_UNIT:
        atomics.store_u32(address(t.lun.stopped), not t.cdb[4] & CdbFlag.START)
    elif op == Opcode.TEST_UNIT_READY or op == Opcode.READ_CAPACITY_10 or op == Opcode.SERVICE_ACTION_IN_16:
        _medium(t)
    else:
        task.check(t, SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPCODE)
