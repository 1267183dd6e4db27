"""virtio-scsi: how a slot becomes a command (virtio 1.2 §5.6.6.1, SBC-4), and the response a result.

What the device answers is trusted only so far: a response that was not written, sense that is too short or data that is
missing fail the I/O. What goes away by itself (busy, resets, unit attentions) is retried; what the control plane should
know or log is reported to it, once for equal causes until it has taken the reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import cython
from cython.cimports.libc.errno import EBUSY, EIO, ENODEV, ENOSPC, EOPNOTSUPP, EPERM, ETIMEDOUT
from cython.cimports.libc.stdint import UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.dataplane.atomics import (
    vd_load_u8,
    vd_load_u32,
    vd_load_u64,
    vd_log2,
    vd_store_u64,
    vd_swap16,
    vd_swap32,
    vd_swap64,
)
from cython.cimports.virtiod.dataplane.ioqueue import (
    DATA_SEG,
    KIND_CONTROL,
    RESULT_RETRY,
    IoQueuePtr,
    SlotPtr,
    ioqueue_command,
)
from cython.cimports.virtiod.dataplane.poller import mailbox_push
from cython.cimports.virtiod.dataplane.scsi import (
    CAUSE_NO_SENSE,
    CAUSE_RESPONSE,
    CAUSE_SENSE,
    CAUSE_SHORT,
    CAUSE_STATUS,
    CDB_FUA,
    CDB_ROOM,
    CDB_UNMAP,
    CMD_HEADER,
    KEY_ABORTED_COMMAND,
    KEY_DATA_PROTECT,
    KEY_ILLEGAL_REQUEST,
    KEY_NO_SENSE,
    KEY_NOT_READY,
    KEY_RECOVERED,
    KEY_UNIT_ATTENTION,
    KEY_VOLUME_OVERFLOW,
    MAX_OVERDUE,
    MAX_REPORTS,
    NO_RESPONSE,
    READ_10,
    READ_16,
    RESP_HEADER,
    RESPONSE_ABORTED,
    RESPONSE_BAD_TARGET,
    RESPONSE_BUSY,
    RESPONSE_OK,
    RESPONSE_RESET,
    RESPONSE_TRANSPORT_FAILURE,
    SENSE_ROOM,
    STATUS_BUSY,
    STATUS_CHECK_CONDITION,
    STATUS_CONDITION_MET,
    STATUS_GOOD,
    STATUS_TASK_ABORTED,
    STATUS_TASK_SET_FULL,
    SYNCHRONIZE_CACHE_10,
    SYNCHRONIZE_CACHE_16,
    UNMAP,
    UNMAP_LIST,
    WRITE_10,
    WRITE_16,
    WRITE_SAME_16,
    Call,
    CallPtr,
    OverduePtr,
    Port,
    PortPtr,
    Report,
    ReportPtr,
    ScsiArea,
    ScsiAreaPtr,
    TagPtr,
)
from cython.cimports.virtiod.dataplane.structs import (
    COMMAND_LATER,
    IO_FUA,
    IO_NO_HOLE,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    BytePtr,
    CommandPtr,
    MessagePtr,
    PollerPtr,
    VoidPtr,
)
from cython.cimports.virtiod.dataplane.virtq import virtq_area
from cython.cimports.virtiod.dataplane.vring import SegPtr

from virtiod.dataplane.ioqueue import RequestQueue
from virtiod.errors import Busy, DeviceError

if TYPE_CHECKING:
    import asyncio

    from virtiod.dataplane.poller import Poller
    from virtiod.memory import DmaMemory

MAX_TRIES = cython.declare(cython.int, 8)  # of what is not known to end by itself
BACKOFF_NS = cython.declare(uint64_t, 1_000_000)  # doubled with each try, up to 128 ms
BACKOFF_SHIFT = cython.declare(cython.int, 7)
MAX_CDB = CDB_ROOM
MAX_SENSE = SENSE_ROOM


class UnitReport(NamedTuple):
    """Something that happened `times` times to I/O of the unit (8 bytes: its address); cause: scsi/cause.py."""

    unit: bytes
    offset: int
    times: int
    cause: int
    op: int


# ---- requests -----------------------------------------------------------------------------------


def _header(q: IoQueuePtr, slot: uint32_t, area: ScsiAreaPtr, lun: uint64_t) -> None:
    port: PortPtr = cython.cast(PortPtr, q.kind)
    tag: TagPtr = cython.address(port.tags[slot])
    port.next_id += 1
    tag.id = port.next_id
    tag.aborted = 0
    area.lun = lun
    area.id = tag.id
    area.task_attr = 0  # SIMPLE
    area.prio = 0
    area.crn = 0
    area.response = NO_RESPONSE


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _put16(p: BytePtr, value: uint16_t) -> cython.void:
    value = vd_swap16(value)
    memcpy(p, cython.address(value), 2)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _put32(p: BytePtr, value: uint32_t) -> cython.void:
    value = vd_swap32(value)
    memcpy(p, cython.address(value), 4)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _put64(p: BytePtr, value: uint64_t) -> cython.void:
    value = vd_swap64(value)
    memcpy(p, cython.address(value), 8)


def _transfer_cdb(cdb: BytePtr, s: SlotPtr, lba: uint64_t, blocks: uint64_t) -> None:
    """READ or WRITE, of 10 bytes where the range allows it (SBC-4 §5.13, §5.15)."""
    write: cython.bint = s.kind == OP_WRITE
    if lba + blocks <= UINT32_MAX and blocks <= 0xFFFF:
        cdb[0] = WRITE_10 if write else READ_10
        _put32(cdb + 2, cython.cast(uint32_t, lba))
        _put16(cdb + 7, cython.cast(uint16_t, blocks))
    else:
        cdb[0] = WRITE_16 if write else READ_16
        _put64(cdb + 2, lba)
        _put32(cdb + 10, cython.cast(uint32_t, blocks))
    if write and s.io.flags & IO_FUA and s.io.channel.bdev.native_fua:
        cdb[1] = CDB_FUA


def _range_cdb(cdb: BytePtr, s: SlotPtr, lba: uint64_t, blocks: uint64_t) -> None:
    """What moves no data of the I/O's: SYNCHRONIZE CACHE of all, UNMAP, WRITE SAME."""
    if s.kind == OP_FLUSH:
        cdb[0] = SYNCHRONIZE_CACHE_10
        if s.io.channel.bdev.size >> vd_log2(s.io.channel.bdev.block_size) > UINT32_MAX:
            cdb[0] = SYNCHRONIZE_CACHE_16
    elif s.kind == OP_UNMAP:
        cdb[0] = UNMAP
        cdb[8] = UNMAP_LIST
    else:
        cdb[0] = WRITE_SAME_16
        if s.io.channel.bdev.zeroes_unmap and not s.io.flags & IO_NO_HOLE:
            cdb[1] = CDB_UNMAP
        _put64(cdb + 2, lba)
        _put32(cdb + 10, cython.cast(uint32_t, blocks))


def _unmap_list(p: BytePtr, lba: uint64_t, blocks: uint64_t) -> None:
    """UNMAP's parameter list of one block descriptor (SBC-4 §5.36.2)."""
    memset(p, 0, UNMAP_LIST)
    p[1] = UNMAP_LIST - 2
    p[3] = UNMAP_LIST - 8
    _put64(p + 8, lba)
    _put32(p + 16, cython.cast(uint32_t, blocks))


def _build_scsi(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    area: ScsiAreaPtr = cython.cast(ScsiAreaPtr, virtq_area(cython.address(q.vq), slot))
    at: uint64_t = cython.cast(uint64_t, area) + q.vq.to_device
    seg: SegPtr = cython.address(q.segs[DATA_SEG - 2])
    shift: cython.int
    out: uint32_t = 1
    if s.kind == KIND_CONTROL:
        return _build_call(q, slot, area)
    shift = vd_log2(s.io.channel.bdev.block_size)
    _header(q, slot, area, s.io.channel.bdev.unit)
    memset(cython.address(area.cdb[0]), 0, port.cdb_size)
    if s.kind == OP_READ or s.kind == OP_WRITE:
        _transfer_cdb(cython.address(area.cdb[0]), s, s.offset >> shift, s.length >> shift)
    else:
        _range_cdb(cython.address(area.cdb[0]), s, s.offset >> shift, s.length >> shift)
    if s.kind == OP_READ:
        # command | response, data
        seg[0].addr = at
        seg[0].len = CMD_HEADER + port.cdb_size
        seg[1].addr = at + (cython.cast(uint64_t, cython.address(area.sense_len)) - cython.cast(uint64_t, area))
        seg[1].len = RESP_HEADER + port.sense_size
        return q.vq.ops.add(cython.address(q.vq), slot, seg, 1, 1 + n)
    # command, data | response
    seg = cython.address(q.segs[DATA_SEG - 1])
    seg[0].addr = at
    seg[0].len = CMD_HEADER + port.cdb_size
    if s.kind == OP_WRITE:
        out += n
    elif s.kind == OP_UNMAP:
        _unmap_list(cython.address(area.unmap[0]), s.offset >> shift, s.length >> shift)
        seg[1].addr = at + (cython.cast(uint64_t, cython.address(area.unmap[0])) - cython.cast(uint64_t, area))
        seg[1].len = UNMAP_LIST
        out = 2
    elif s.kind == OP_WRITE_ZEROES:
        seg[1].addr = cython.cast(uint64_t, q.zeroes) + q.vq.to_device
        seg[1].len = s.io.channel.bdev.block_size
        out = 2
    seg[out].addr = at + (cython.cast(uint64_t, cython.address(area.sense_len)) - cython.cast(uint64_t, area))
    seg[out].len = RESP_HEADER + port.sense_size
    return q.vq.ops.add(cython.address(q.vq), slot, seg, out, 1)


def _build_call(q: IoQueuePtr, slot: uint32_t, area: ScsiAreaPtr) -> cython.int:
    """A command of the control plane, with a buffer for what the device answers."""
    call: CallPtr = cython.cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    at: uint64_t = cython.cast(uint64_t, area) + q.vq.to_device
    seg: SegPtr = cython.address(q.segs[DATA_SEG - 2])
    _header(q, slot, area, call.lun)
    vd_store_u64(cython.address(call.id), port.tags[slot].id)
    memcpy(cython.address(area.cdb[0]), cython.address(call.cdb[0]), port.cdb_size)
    seg[0].addr = at
    seg[0].len = CMD_HEADER + port.cdb_size
    seg[1].addr = at + (cython.cast(uint64_t, cython.address(area.sense_len)) - cython.cast(uint64_t, area))
    seg[1].len = RESP_HEADER + port.sense_size
    seg[2].addr = call.data + q.vq.to_device
    seg[2].len = call.length
    return q.vq.ops.add(cython.address(q.vq), slot, seg, 1, 2 if call.length else 1)


# ---- responses ----------------------------------------------------------------------------------


def _sense_code(sense: BytePtr, length: uint32_t) -> uint32_t:
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


def _result_scsi(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    s: SlotPtr = cython.address(q.slots[slot])
    port: PortPtr = cython.cast(PortPtr, q.kind)
    area: ScsiAreaPtr = cython.cast(ScsiAreaPtr, virtq_area(cython.address(q.vq), slot))
    response: uint8_t = vd_load_u8(cython.address(area.response))
    status: uint8_t = vd_load_u8(cython.address(area.status))
    length: uint32_t
    sense: cython.uchar[14]
    if s.kind == KIND_CONTROL:
        return _result_call(q, slot, area)
    if response == RESPONSE_OK and status == STATUS_GOOD:
        # A device that left some of the data away has not done what was asked.
        if vd_load_u32(cython.address(area.resid)) and s.kind <= OP_WRITE:
            _report(q, s, CAUSE_SHORT)
            return -EIO
        return 0
    if response != RESPONSE_OK:
        return _by_response(q, slot, response)
    if status == STATUS_CHECK_CONDITION:
        length = vd_load_u32(cython.address(area.sense_len))
        if length > port.sense_size:
            length = port.sense_size
        # A private copy: the device may write on. Safety: 14 bytes are inside of the area's sense.
        memcpy(cython.address(sense[0]), cython.address(area.sense[0]), 14)
        return _by_sense(q, slot, _sense_code(cython.address(sense[0]), length))
    return _by_status(q, slot, status)


def _result_call(q: IoQueuePtr, slot: uint32_t, area: ScsiAreaPtr) -> cython.int:
    call: CallPtr = cython.cast(CallPtr, q.slots[slot].command.out)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    length: uint32_t = vd_load_u32(cython.address(area.sense_len))
    call.response = vd_load_u8(cython.address(area.response))
    call.status = vd_load_u8(cython.address(area.status))
    call.resid = vd_load_u32(cython.address(area.resid))
    call.sense_len = length if length <= port.sense_size else port.sense_size
    memcpy(cython.address(call.sense[0]), cython.address(area.sense[0]), call.sense_len)
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
    """CHECK CONDITION: what happened is in the sense (SPC-4 §4.5.6, annex F)."""
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


# ---- commands -----------------------------------------------------------------------------------


def _cmd_call(p: PollerPtr, c: CommandPtr) -> int64_t:
    ret: cython.int = ioqueue_command(cython.cast(IoQueuePtr, c.ctx), c)
    return ret if ret else COMMAND_LATER


def _cmd_take_reports(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The reports, to out; returns how many. From now on the next is announced again."""
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    n: uint32_t = port.n_reports
    memcpy(c.out, cython.address(port.reports[0]), n * cython.sizeof(Report))
    port.n_reports = 0
    port.announced = 0
    return n


def _cmd_overdue(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The requests on the ring whose I/O was submitted before arg (ns), to out; returns how many, at most MAX_OVERDUE.
    If the device aborts them, they have timed out."""
    q: IoQueuePtr = cython.cast(IoQueuePtr, c.ctx)
    port: PortPtr = cython.cast(PortPtr, q.kind)
    before: uint64_t = cython.cast(uint64_t, c.arg)
    found: OverduePtr = cython.cast(OverduePtr, c.out)
    i: uint32_t
    n: int64_t = 0
    for i in range(q.vq.size):
        if (
            q.slots[i].used
            and q.slots[i].io != cython.NULL
            and q.slots[i].due == 0
            and q.slots[i].io.submitted_ns < before
            and n < MAX_OVERDUE
        ):
            port.tags[i].aborted = 1
            found[n].unit = q.slots[i].io.channel.bdev.unit
            found[n].id = port.tags[i].id
            n += 1
    return n


# ---- control plane ------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _announced(m: MessagePtr, p: PollerPtr) -> cython.void:
    """The control plane's mailbox does not run messages."""


class CallBuffers:
    """DMA memory for what units answer: `count` buffers of `size` bytes, of which devices are told before they run."""

    def __init__(self, memory: DmaMemory, count: int, size: int) -> None:
        self.memory = memory
        self.size = size
        self._address = memory.allocate(count * size)
        self._free = [self._address + i * size for i in range(count)]

    def take(self) -> int:
        """Its address. Raises Busy: the device still has all of them."""
        if not self._free:
            raise Busy("the device has not answered any of its commands")
        return self._free.pop()

    def give(self, address: int) -> None:
        self._free.append(address)

    def close(self) -> None:
        """The device is cut off."""
        self.memory.free(self._address)


class ScsiCall:
    """A command to a unit and what came back; its buffer is kept until the device has answered or is cut off.

    lun: the unit's address, 8 bytes; length: bytes that the device may answer.
    """

    call: Call
    buffers: CallBuffers
    length: int

    def __cinit__(self) -> None:
        memset(cython.address(self.call), 0, cython.sizeof(self.call))

    def __init__(self, buffers: CallBuffers, lun: bytes, cdb: bytes, length: int) -> None:
        text: BytePtr = lun
        if len(lun) != 8 or not 6 <= len(cdb) <= CDB_ROOM or length > buffers.size:
            raise ValueError(f"unit address of {len(lun)} bytes, CDB of {len(cdb)}, {length} bytes to answer")
        memcpy(cython.address(self.call.lun), text, 8)
        text = cdb
        memcpy(cython.address(self.call.cdb[0]), text, len(cdb))
        self.length = length
        self.call.length = length
        self.buffers = buffers
        self.call.data = buffers.take()

    @property
    def id(self) -> int:
        """What the device knows its request as, for task management; 0: it was not sent yet."""
        return vd_load_u64(cython.address(self.call.id))

    @property
    def response(self) -> int:
        """§5.6.6.1; 255 when the device wrote none."""
        return self.call.response

    @property
    def status(self) -> int:
        return self.call.status

    @property
    def sense(self) -> bytes:
        return bytes(self.call.sense[: self.call.sense_len])

    @property
    def data(self) -> bytes:
        """What the device sent, by its own account."""
        resid: int = min(self.call.resid, self.length)
        size: int = self.length - resid
        return bytes(self.buffers.memory.view(self.call.data, size)) if size else b""

    def __del__(self) -> None:
        if self.call.data:
            self.buffers.give(self.call.data)
            self.call.data = 0


class ScsiQueue(RequestQueue):
    """A request queue of a virtio-scsi controller.

    cdb_size and sense_size are the device's (§5.6.4). retry_s: how long an I/O is retried (seconds) while its unit is
    busy. on_report is called, once, when there are reports to take.
    """

    port: Port
    listener: Callable[[], None]

    def __init__(
        self,
        memory: DmaMemory,
        poller: Poller,
        index: int,
        size: int,
        max_segments: int,
        indirect: bool,
        event_idx: bool,
        cdb_size: int,
        sense_size: int,
        retry_s: float,
        name: str,
    ) -> None:
        if not 16 <= cdb_size <= CDB_ROOM or not 18 <= sense_size <= SENSE_ROOM:
            raise ValueError(f"CDBs of {cdb_size} bytes, sense of {sense_size}")
        self.port.cdb_size = cdb_size
        self.port.sense_size = sense_size
        self.port.retry_ns = cython.cast(uint64_t, retry_s * 1e9)
        self.port.next_id = cython.cast(uint64_t, index) << 48  # ids are unique in the device
        self.port.event.run = _announced
        self.port.tags = cython.cast(TagPtr, calloc(size, cython.sizeof(self.port.tags[0])))
        if self.port.tags == cython.NULL:
            raise MemoryError
        self.q.kind = cython.address(self.port)
        self.q.ops.build = _build_scsi
        self.q.ops.result = _result_scsi
        self.allocate(memory, poller, index, size, cython.sizeof(ScsiArea), max_segments, indirect, event_idx)
        self.set_name(name)

    def _call(self, call: ScsiCall) -> asyncio.Future[int]:
        return self.poller.command(_cmd_call, cython.address(self.q), 0, 0, cython.address(call.call), call)

    async def call(self, call: ScsiCall) -> None:
        """Send a command; returns when the device has answered.

        Raises Busy when I/O has all of the queue, DeviceError when it could not be sent, or was cut off.

        It may be cancelled: the command then is in flight until the device answers.
        """
        ret: int = await self._call(call)
        if ret in {-EBUSY, -ENOSPC}:
            raise Busy(f"command {call.call.cdb[0]:#04x}: the queue is full")
        if ret:
            raise DeviceError(f"command {call.call.cdb[0]:#04x} was not sent", -ret)

    def listen(self, on_report: Callable[[], None]) -> None:
        """Have on_report called when there is something to take; once. Call it before take_reports()."""
        self.poller.control.expect(cython.address(self.port.event), on_report)

    def unlisten(self) -> None:
        self.poller.control.forget(cython.address(self.port.event))

    def _take(self, found: bytearray) -> asyncio.Future[int]:
        data: BytePtr = found
        return self.poller.command(
            _cmd_take_reports, cython.address(self.q), 0, 0, cython.cast(VoidPtr, data), (found, self)
        )

    async def take_reports(self) -> list[UnitReport]:
        """What happened since the last time."""
        found = bytearray(MAX_REPORTS * cython.sizeof(Report))
        n: int = await self._take(found)
        size: int = cython.sizeof(Report)
        return [_unpack_report(bytes(found[i * size : (i + 1) * size])) for i in range(n)]

    def _overdue(self, before: uint64_t, found: bytearray) -> asyncio.Future[int]:
        data: BytePtr = found
        return self.poller.command(
            _cmd_overdue, cython.address(self.q), before, 0, cython.cast(VoidPtr, data), (found, self)
        )

    async def overdue(self, before_ns: int) -> list[tuple[bytes, int]]:
        """(unit, id) of the requests whose I/O was submitted before that time (CLOCK_MONOTONIC, ns)."""
        found = bytearray(MAX_OVERDUE * 16)
        n: int = await self._overdue(before_ns, found)
        return [
            (bytes(found[16 * i : 16 * i + 8]), int.from_bytes(found[16 * i + 8 : 16 * i + 16], "little"))
            for i in range(n)
        ]

    def __dealloc__(self) -> None:
        free(self.port.tags)


def _unpack_report(data: bytes) -> UnitReport:
    numbers = [int.from_bytes(data[i : i + 8], "little") for i in (8, 16)]
    return UnitReport(
        data[:8], numbers[0], numbers[1], int.from_bytes(data[24:28], "little"), int.from_bytes(data[28:32], "little")
    )


def sense_code(sense: bytes) -> int:
    """What the data path makes of sense: key << 16 | asc << 8 | ascq, -1 when it is none. For tests."""
    data: BytePtr = sense
    code: uint32_t = _sense_code(data, cython.cast(uint32_t, len(sense)))
    return -1 if code == CAUSE_NO_SENSE else code & 0xFFFFFF
