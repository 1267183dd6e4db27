"""virtio-scsi: what the device's answer to a request means (virtio 1.2 §5.6.6.1, SAM-5 §5.3, SPC-4 §4.5).

It is trusted only so far: a response that was not written, sense that is too short or data that is missing fail the
I/O. What goes away by itself (busy, resets, unit attentions) is retried; what the control plane should know or log is
reported to it, once for equal causes until it has taken the reports.
"""

from __future__ import annotations

import cython
from cython.cimports.libc.errno import EIO, ENODEV, ENOSPC, EOPNOTSUPP, EPERM, ETIMEDOUT
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.controllers.scsi.wire import (
    CAUSE_NO_SENSE,
    CAUSE_RESPONSE,
    CAUSE_SENSE,
    CAUSE_SHORT,
    CAUSE_STATUS,
    KEY_ABORTED_COMMAND,
    KEY_DATA_PROTECT,
    KEY_ILLEGAL_REQUEST,
    KEY_NO_SENSE,
    KEY_NOT_READY,
    KEY_RECOVERED,
    KEY_UNIT_ATTENTION,
    KEY_VOLUME_OVERFLOW,
    MAX_REPORTS,
    RESPONSE_ABORTED,
    RESPONSE_BAD_TARGET,
    RESPONSE_BUSY,
    RESPONSE_OK,
    RESPONSE_RESET,
    RESPONSE_TRANSPORT_FAILURE,
    STATUS_BUSY,
    STATUS_CHECK_CONDITION,
    STATUS_CONDITION_MET,
    STATUS_GOOD,
    STATUS_TASK_ABORTED,
    STATUS_TASK_SET_FULL,
    CallPtr,
    CmdRespPtr,
    PortPtr,
    ReportPtr,
)
from cython.cimports.virtiod.core.atomics import vd_load_u8, vd_load_u32
from cython.cimports.virtiod.core.types import OP_WRITE, BytePtr
from cython.cimports.virtiod.poller.rounds import mailbox_push
from cython.cimports.virtiod.virtqueue.requests import KIND_CONTROL, RESULT_RETRY, IoQueuePtr, SlotPtr
from cython.cimports.virtiod.virtqueue.split import virtq_area

MAX_TRIES = cython.declare(cython.int, 8)  # of what is not known to end by itself
BACKOFF_NS = cython.declare(uint64_t, 1_000_000)  # doubled with each try, up to 128 ms
BACKOFF_SHIFT = cython.declare(cython.int, 7)


def scsi_sense_code(sense: BytePtr, length: uint32_t) -> uint32_t:
    """key << 16 | asc << 8 | ascq of fixed and descriptor sense (SPC-4 §4.5); CAUSE_NO_SENSE if it is neither."""
    kind: uint8_t
    if length < 3:
        return CAUSE_NO_SENSE
    kind = sense[0] & 0x7F
    if kind == 0x70 or kind == 0x71:
        if length >= 14 and sense[7] >= 6:
            return CAUSE_SENSE | (sense[2] & 0x0F) << 16 | sense[12] << 8 | sense[13]
        return CAUSE_SENSE | (sense[2] & 0x0F) << 16
    if (kind == 0x72 or kind == 0x73) and length >= 4:
        return CAUSE_SENSE | (sense[1] & 0x0F) << 16 | sense[2] << 8 | sense[3]
    return CAUSE_NO_SENSE


def scsi_result(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    resp: CmdRespPtr = cython.cast(CmdRespPtr, virtq_area(cython.address(q.vq), slot) + port.response_at)
    response: uint8_t = vd_load_u8(cython.address(resp.response))
    status: uint8_t = vd_load_u8(cython.address(resp.status))
    if s.kind == KIND_CONTROL:
        return _result_call(q, slot, resp)
    if response != RESPONSE_OK:
        return _by_response(q, slot, response)
    if status == STATUS_CHECK_CONDITION:
        return _by_check(q, slot, resp)
    if status != STATUS_GOOD:
        return _by_status(q, slot, status)
    # A device that left some of the data away has not done what was asked.
    if s.kind <= OP_WRITE and vd_load_u32(cython.address(resp.resid)):
        _report(q, s, CAUSE_SHORT)
        return -EIO
    return 0


def _by_check(q: IoQueuePtr, slot: uint32_t, resp: CmdRespPtr) -> cython.int:
    """CHECK CONDITION: what happened is in the sense."""
    port: PortPtr = cython.cast(PortPtr, q.kind)
    length: uint32_t = vd_load_u32(cython.address(resp.sense_len))
    sense: cython.uchar[14]
    if length > port.sense_size:
        length = port.sense_size
    # A private copy: the device may write on. Safety: the area has room for at least 18 bytes of sense.
    memcpy(cython.address(sense[0]), cython.address(resp.sense[0]), 14)
    return _by_sense(q, slot, scsi_sense_code(cython.address(sense[0]), length))


def _result_call(q: IoQueuePtr, slot: uint32_t, resp: CmdRespPtr) -> cython.int:
    call: CallPtr = cython.cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    length: uint32_t = vd_load_u32(cython.address(resp.sense_len))
    call.response = vd_load_u8(cython.address(resp.response))
    call.status = vd_load_u8(cython.address(resp.status))
    call.resid = vd_load_u32(cython.address(resp.resid))
    call.sense_len = length if length <= port.sense_size else port.sense_size
    memcpy(cython.address(call.sense[0]), cython.address(resp.sense[0]), call.sense_len)
    return 0


def _again(q: IoQueuePtr, slot: uint32_t, wait_ns: uint64_t, instead: cython.int) -> cython.int:
    """Have the request retried in wait_ns, unless its I/O is too old for that: then `instead`."""
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    now: uint64_t = q.poller.now
    if now - s.io.submitted_ns > port.retry_ns and now > s.io.submitted_ns:
        return instead
    if s.tries < 255:
        s.tries += 1
    s.due = now + wait_ns
    return RESULT_RETRY


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _backoff(s: SlotPtr) -> uint64_t:
    return BACKOFF_NS << (s.tries if s.tries < BACKOFF_SHIFT else BACKOFF_SHIFT)


def _by_response(q: IoQueuePtr, slot: uint32_t, response: cython.uint) -> cython.int:
    """§5.6.6.1: the command never reached the unit, or never ended there."""
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    if response == RESPONSE_ABORTED and port.tags[slot].aborted:
        return -ETIMEDOUT
    if response == RESPONSE_BUSY:
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    if (
        response == RESPONSE_RESET or response == RESPONSE_ABORTED or response == RESPONSE_TRANSPORT_FAILURE
    ) and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    _report(q, s, CAUSE_RESPONSE | response)
    return -ENODEV if response == RESPONSE_BAD_TARGET else -EIO


def _by_status(q: IoQueuePtr, slot: uint32_t, status: cython.uint) -> cython.int:
    """A status other than GOOD and CHECK CONDITION (SAM-5 §5.3)."""
    s: SlotPtr = cython.address(q.slots[slot])
    if status == STATUS_CONDITION_MET:
        return 0
    if status == STATUS_BUSY or status == STATUS_TASK_SET_FULL:
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    if status == STATUS_TASK_ABORTED and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    _report(q, s, CAUSE_STATUS | status)
    return -EIO


def _by_sense(q: IoQueuePtr, slot: uint32_t, code: uint32_t) -> cython.int:
    """What sense says, as scsi_sense_code() has it (SPC-4 §4.5.6, annex F)."""
    s: SlotPtr = cython.address(q.slots[slot])
    key: uint32_t = code >> 16 & 0xF
    asc: uint32_t = code >> 8 & 0xFF
    if code == CAUSE_NO_SENSE:
        _report(q, s, code)
        return -EIO
    if key == KEY_NO_SENSE or key == KEY_RECOVERED:
        return 0
    if key == KEY_UNIT_ATTENTION:
        _report(q, s, code)
        return _again(q, slot, 0 if s.tries < 2 else _backoff(s), -EIO) if s.tries < MAX_TRIES else -EIO
    if key == KEY_ABORTED_COMMAND and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    if key == KEY_NOT_READY and code & 0xFFFF == 0x0401:  # becoming ready
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    _report(q, s, code)
    if key == KEY_DATA_PROTECT:
        return -ENOSPC if code & 0xFFFF == 0x2707 else -EPERM  # 27/07: out of space for thin provisioning
    if key == KEY_VOLUME_OVERFLOW:
        return -ENOSPC
    if key == KEY_ILLEGAL_REQUEST:
        if asc == 0x21:
            return -ENOSPC  # LBA out of range
        if asc == 0x25:
            return -ENODEV  # logical unit not supported
        if asc == 0x20 or (asc == 0x24 and s.kind > OP_WRITE):
            return -EOPNOTSUPP  # no such command; a command without such an option
    return -EIO


def _report(q: IoQueuePtr, s: SlotPtr, cause: uint32_t) -> None:
    """Tell the control plane; equal causes are counted until it has taken them, those that find no room are not."""
    port: PortPtr = cython.cast(PortPtr, q.kind)
    unit: uint64_t = s.io.channel.bdev.unit
    r: ReportPtr
    i: uint32_t
    for i in range(port.n_reports):
        r = cython.address(port.reports[i])
        if r.unit == unit and r.cause == cause and r.op == s.kind:
            r.count += 1
            return
    if port.n_reports == MAX_REPORTS:
        return
    r = cython.address(port.reports[port.n_reports])
    r.unit = unit
    r.offset = s.offset
    r.count = 1
    r.cause = cause
    r.op = s.kind
    port.n_reports += 1
    if not port.announced:
        port.announced = 1
        mailbox_push(q.poller.control, cython.address(port.event))


def sense_code(sense: bytes) -> int:
    """What the data path makes of sense: key << 16 | asc << 8 | ascq, -1 when it is none. For tests."""
    data: BytePtr = sense
    code: uint32_t = scsi_sense_code(data, cython.cast(uint32_t, len(sense)))
    return -1 if code == CAUSE_NO_SENSE else code & 0xFFFFFF
