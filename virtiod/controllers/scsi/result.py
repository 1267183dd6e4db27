"""virtio-scsi: what the device's answer to a request means (virtio 1.2 §5.6.6.1, SAM-5 §5.3, SPC-4 §4.5).

The answer is checked: a response that was not written, sense that is too short or data that is missing fails the I/O.
What ends by itself (busy, resets, unit attentions) is retried, and so is a command that was not processed because the
answer tells of an earlier one (deferred sense). What the control plane should know or log is reported to it, once for
equal causes until it has taken the reports.

A unit attention that may mean another disk, and the answer that there is no unit, hold all I/O of the unit: until the
control plane has looked (doubts.py), the unit is sent TEST UNIT READY in its place, and no success counts.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EIO, ENODEV, ENOSPC, EOPNOTSUPP, EPERM, ESHUTDOWN, ETIMEDOUT
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.bdev import cache, identity
from cython.cimports.virtiod.controllers.scsi import siblings
from cython.cimports.virtiod.controllers.scsi.cause import Cause
from cython.cimports.virtiod.controllers.scsi.port import MAX_REPORTS, CallPtr, PortPtr, ReportPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BdevCorePtr, Op
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.scsi import sense
from cython.cimports.virtiod.scsi.sense import SenseData, SenseDataPtr
from cython.cimports.virtiod.scsi.spec import Asc, SenseKey, Status
from cython.cimports.virtiod.virtio.scsi import RESP_HEADER, CmdRespPtr, Response
from cython.cimports.virtiod.virtqueue import layout, queue
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, SlotPtr

MAX_TRIES = cython.declare(cython.int, 8)  # of what is not known to end by itself
BACKOFF_NS = cython.declare(uint64_t, 1_000_000)  # doubled with each try, up to 128 ms
BACKOFF_SHIFT = cython.declare(cython.int, 7)
HOLD_NS = cython.declare(uint64_t, 1_000_000)  # between looks at a unit in doubt; longer, the longer the I/O waits
HOLD_SHIFT = cython.declare(cython.int, 3)
MAX_HOLD_NS = cython.declare(uint64_t, 100_000_000)


def judge(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    s: SlotPtr = address(q.slots[slot])
    ret: cython.int
    if s.kind == queue.KIND_CONTROL:
        return _result_call(q, slot)
    ret = _verdict(q, slot, written)
    if ret == 0 and s.command == NULL and (s.probe or identity.in_doubt(s.io.channel.bdev)):
        return _held(q, slot)
    if s.kind == Op.FLUSH:
        return siblings.confirm(q, slot) if ret == 0 else siblings.forget(q, slot, ret)
    return ret


def _held(q: IoQueuePtr, slot: uint32_t) -> cython.int:
    """The result while the control plane finds out whether the unit is the disk that this I/O is for: asked again."""
    s: SlotPtr = address(q.slots[slot])
    now: uint64_t = q.poller.now
    wait: uint64_t = (now - s.io.submitted_ns) >> HOLD_SHIFT if now > s.io.submitted_ns else 0
    if atomics.load_u8(address(s.io.channel.bdev.disowned)):
        return -ENODEV
    return later(q, slot, min(max(wait, HOLD_NS), MAX_HOLD_NS), -ETIMEDOUT)


def _verdict(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    """What the answer says of the command."""
    port: PortPtr = cast(PortPtr, q.kind)
    resp: CmdRespPtr = cast(CmdRespPtr, layout.slot_area(address(q.vq), slot) + port.response_at)
    response: uint8_t = atomics.load_u8(address(resp.response))
    status: uint8_t = atomics.load_u8(address(resp.status))
    if response != Response.OK:
        return _by_response(q, slot, response)
    if status == Status.CHECK_CONDITION:
        return _by_check(q, slot, resp, written)
    if status != Status.GOOD and status != Status.CONDITION_MET:
        return _by_status(q, slot, status)
    return _done(q, slot, resp, written)


def _done(q: IoQueuePtr, slot: uint32_t, resp: CmdRespPtr, written: uint32_t) -> cython.int:
    """The result of a success. One that transferred less than the data of a READ or WRITE has not done what was asked.

    Of other commands the residual means little (SPDK's UNMAP leaves all of its list). A used length of 0 says nothing:
    the kernel's vhost-scsi and QEMU's vhost-user-scsi write no other.
    """
    s: SlotPtr = address(q.slots[slot])
    if s.kind > Op.WRITE or s.probe:
        return 0
    if atomics.load_u32(address(resp.resid)) or (s.kind == Op.READ and written and written < RESP_HEADER + s.length):
        _report(q, s, Cause.SHORT)
        return -EIO
    return 0


def _by_check(q: IoQueuePtr, slot: uint32_t, resp: CmdRespPtr, written: uint32_t) -> cython.int:
    """The result of CHECK CONDITION, as its sense says."""
    port: PortPtr = cast(PortPtr, q.kind)
    length: uint32_t = atomics.load_u32(address(resp.sense_len))
    data: cython.uchar[14]
    found: SenseData
    if length > port.sense_size:
        length = port.sense_size
    # A private copy: the device may still write to it. Safety: the area has room for at least 18 bytes of sense.
    memcpy(address(data[0]), address(resp.sense[0]), 14)
    if not sense.decode(address(data[0]), length, address(found)):
        _report(q, address(q.slots[slot]), Cause.NO_SENSE)
        return -EIO
    if found.deferred:
        return _deferred(q, slot, address(found))
    if sense.is_success(found.key):
        return _done(q, slot, resp, written)
    return _by_sense(q, slot, address(found))


def _result_call(q: IoQueuePtr, slot: uint32_t) -> cython.int:
    call: CallPtr = cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cast(PortPtr, q.kind)
    resp: CmdRespPtr = cast(CmdRespPtr, layout.slot_area(address(q.vq), slot) + port.response_at)
    length: uint32_t = atomics.load_u32(address(resp.sense_len))
    call.response = atomics.load_u8(address(resp.response))
    call.status = atomics.load_u8(address(resp.status))
    call.resid = atomics.load_u32(address(resp.resid))
    call.sense_len = length if length <= port.sense_size else port.sense_size
    memcpy(address(call.sense[0]), address(resp.sense[0]), call.sense_len)
    if call.bdev != NULL and call.response == Response.OK and call.status == Status.CHECK_CONDITION:
        _hear(call)
    return 0


def _hear(call: CallPtr) -> None:
    """What the unit tells of itself, or of an earlier command.

    It tells it once: I/O that is answered later must find it known, though the control plane may take its time, or not
    wait for this answer any more.
    """
    found: SenseData
    if not sense.decode(address(call.sense[0]), call.sense_len, address(found)):
        return
    if found.deferred:
        if not sense.is_success(found.key):
            atomics.fetch_add_u64(address(call.bdev.losses), 1)
        return
    if found.key == SenseKey.UNIT_ATTENTION:
        cache.doubt(call.bdev)
        if sense.may_be_another(found.asc):
            identity.doubt(call.bdev, sense.may_lose_cache(found.asc))
    elif found.key == SenseKey.ILLEGAL_REQUEST and found.asc >> 8 == Asc.LUN_NOT_SUPPORTED >> 8:
        identity.doubt(call.bdev, True)


def _again(q: IoQueuePtr, slot: uint32_t, wait_ns: uint64_t, instead: cython.int) -> cython.int:
    """Has the request retried in wait_ns, unless its I/O is too old for that: then returns `instead`."""
    s: SlotPtr = address(q.slots[slot])
    if s.tries < 255:
        s.tries += 1
    return later(q, slot, wait_ns, instead)


def later(q: IoQueuePtr, slot: uint32_t, wait_ns: uint64_t, instead: cython.int) -> cython.int:
    s: SlotPtr = address(q.slots[slot])
    port: PortPtr = cast(PortPtr, q.kind)
    now: uint64_t = q.poller.now
    if now - s.io.submitted_ns > port.retry_ns and now > s.io.submitted_ns:
        return instead
    s.due = now + wait_ns
    return queue.RESULT_RETRY


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _backoff(s: SlotPtr) -> uint64_t:
    return BACKOFF_NS << (s.tries if s.tries < BACKOFF_SHIFT else BACKOFF_SHIFT)


def _by_response(q: IoQueuePtr, slot: uint32_t, response: cython.uint) -> cython.int:
    """The result of a response (§5.6.6.1) that says that the command did not reach the unit, or did not end there."""
    s: SlotPtr = address(q.slots[slot])
    port: PortPtr = cast(PortPtr, q.kind)
    if response == Response.ABORTED and port.tags[slot].aborted:
        return -ETIMEDOUT
    if response == Response.BUSY:
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    if (
        response == Response.RESET or response == Response.ABORTED or response == Response.TRANSPORT_FAILURE
    ) and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    _report(q, s, Cause.RESPONSE | response)
    return _gone(s) if response == Response.BAD_TARGET else -EIO


def _by_status(q: IoQueuePtr, slot: uint32_t, status: cython.uint) -> cython.int:
    """The result of a status that is no success, nor CHECK CONDITION (SAM-5 §5.3)."""
    s: SlotPtr = address(q.slots[slot])
    if status == Status.BUSY or status == Status.TASK_SET_FULL:
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    if status == Status.TASK_ABORTED and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    _report(q, s, Cause.STATUS | status)
    return -EIO


def _deferred(q: IoQueuePtr, slot: uint32_t, found: SenseDataPtr) -> cython.int:
    """An earlier command failed after it was acknowledged; this one was not processed (SPC-4 §4.5.7).

    A flush stands for all that was acknowledged before it: it fails, though another one would succeed.
    """
    s: SlotPtr = address(q.slots[slot])
    if not sense.is_success(found.key):
        atomics.fetch_add_u64(address(s.io.channel.bdev.losses), 1)
        _report(q, s, Cause.SENSE | Cause.DEFERRED | cast(uint32_t, found.key) << 16 | found.asc)
        if s.kind == Op.FLUSH:
            return -EIO
    return _again(q, slot, 0 if s.tries < 2 else _backoff(s), -EIO) if s.tries < MAX_TRIES else -EIO


def _by_sense(q: IoQueuePtr, slot: uint32_t, found: SenseDataPtr) -> cython.int:
    """The result that sense data says (SPC-4 §4.5.6, annex F)."""
    s: SlotPtr = address(q.slots[slot])
    key: uint8_t = found.key
    cause: uint32_t = Cause.SENSE | cast(uint32_t, key) << 16 | found.asc
    if key == SenseKey.UNIT_ATTENTION:
        _report(q, s, cause)
        return _attention(q, slot, found.asc)
    if key == SenseKey.ABORTED_COMMAND and s.tries < MAX_TRIES:
        return _again(q, slot, _backoff(s), -EIO)
    if key == SenseKey.NOT_READY and found.asc == Asc.BECOMING_READY:
        return _again(q, slot, _backoff(s), -ETIMEDOUT)
    if key == SenseKey.ILLEGAL_REQUEST and found.asc == Asc.INVALID_OPCODE and s.kind == Op.FLUSH:
        return _no_flush(q, slot, cause)
    _report(q, s, cause)
    if key == SenseKey.DATA_PROTECT:
        return -ENOSPC if found.asc == Asc.SPACE_ALLOCATION_FAILED else -EPERM
    if key == SenseKey.VOLUME_OVERFLOW:
        return -ENOSPC
    if key == SenseKey.ILLEGAL_REQUEST:
        return _refused(s, found.asc >> 8)
    return -EIO


def _attention(q: IoQueuePtr, slot: uint32_t, asc: uint16_t) -> cython.int:
    """The result of a unit attention: the command was not processed. What is written again begins again if that is
    for another disk, perhaps, or comes too late."""
    s: SlotPtr = address(q.slots[slot])
    b: BdevCorePtr = s.io.channel.bdev
    cache.doubt(b)  # whatever changed: the cache's mode may have, too
    if sense.may_be_another(asc):
        identity.doubt(b, sense.may_lose_cache(asc))
        if s.command != NULL:
            return -ESHUTDOWN
        if s.probe:
            return _held(q, slot)  # however many the unit has queued
    return _again(q, slot, 0 if s.tries < 2 else _backoff(s), -EIO) if s.tries < MAX_TRIES else -EIO


def _no_flush(q: IoQueuePtr, slot: uint32_t, cause: uint32_t) -> cython.int:
    """The unit does not know SYNCHRONIZE CACHE. If it was asked only in doubt, whether it has a cache will be known."""
    s: SlotPtr = address(q.slots[slot])
    if not cache.is_volatile(s.io.channel.bdev):
        return 0
    if not atomics.load_u8(address(s.io.channel.bdev.write_cache)):
        return _again(q, slot, _backoff(s), -EOPNOTSUPP)
    _report(q, s, cause)
    return -EOPNOTSUPP


def _gone(s: SlotPtr) -> cython.int:
    """The result when there is no such unit. What is in its place from now on may be another disk."""
    identity.doubt(s.io.channel.bdev, True)
    return -ENODEV


def _refused(s: SlotPtr, asc: uint8_t) -> cython.int:
    """The errno of ILLEGAL REQUEST, whatever the qualifier of its additional sense code."""
    if asc == Asc.LBA_OUT_OF_RANGE >> 8:
        return -ENOSPC
    if asc == Asc.LUN_NOT_SUPPORTED >> 8:
        return _gone(s)
    if asc == Asc.INVALID_OPCODE >> 8 or (asc == Asc.INVALID_FIELD_IN_CDB >> 8 and s.kind > Op.WRITE):
        return -EOPNOTSUPP  # no such command; a command without such an option
    return -EIO


def _report(q: IoQueuePtr, s: SlotPtr, cause: uint32_t) -> None:
    """Reports a cause to the control plane: equal ones are counted until it has taken them, MAX_REPORTS are kept."""
    port: PortPtr = cast(PortPtr, q.kind)
    unit: uint64_t = s.io.channel.bdev.unit
    r: ReportPtr
    i: uint32_t
    for i in range(port.n_reports):
        r = address(port.reports[i])
        if r.unit == unit and r.cause == cause and r.op == s.kind:
            r.count += 1
            return
    if port.n_reports == MAX_REPORTS:
        return
    r = address(port.reports[port.n_reports])
    r.unit = unit
    r.offset = s.offset
    r.count = 1
    r.cause = cause
    r.op = s.kind
    port.n_reports += 1
    if not port.announced:
        port.announced = 1
        rounds.post(q.poller.control, address(port.event))
