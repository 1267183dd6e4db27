"""virtio-scsi: a controller's request queues (virtio 1.2 §5.6.6.1), for I/O and for commands of the control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EBUSY, ENOSPC
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.controllers.scsi import request, result
from cython.cimports.virtiod.controllers.scsi.port import (
    MAX_OVERDUE,
    MAX_REPORTS,
    MAX_SILENT,
    RESPONSE_AT,
    Call,
    Port,
    PortPtr,
    Report,
    SiblingPtr,
    TagPtr,
)
from cython.cimports.virtiod.controllers.scsi.port import MAX_UNMAP_RANGES as _MAX_UNMAP_RANGES
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CommandPtr, MessagePtr, PollerPtr, U64Ptr, VoidPtr
from cython.cimports.virtiod.scsi.spec import FIXED_SENSE, MIN_CDB, UNMAP_HEADER, UNMAP_RANGE
from cython.cimports.virtiod.virtio.scsi import CDB_ROOM, CMD_HEADER, RESP_HEADER, SENSE_ROOM
from cython.cimports.virtiod.virtqueue import commands
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr

from virtiod.core.errors import Busy, DeviceError
from virtiod.virtqueue.handle import RequestQueue

if TYPE_CHECKING:
    import asyncio

    from virtiod.controllers.scsi.config import ScsiConfig
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller
    from virtiod.virtqueue.spec import RingSpec

MAX_UNMAP_RANGES = _MAX_UNMAP_RANGES  # block descriptors of one UNMAP


class UnitReport(NamedTuple):
    """Something that happened `times` times to I/O of the unit (8 bytes: its address); cause: see cause.py."""

    unit: bytes
    offset: int
    times: int
    cause: int
    op: int


# ---- commands -----------------------------------------------------------------------------------


def _cmd_take_reports(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Moves the reports to out; returns how many. From now on the next one is announced again."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    port: PortPtr = cast(PortPtr, q.kind)
    n: uint32_t = port.n_reports
    memcpy(c.out, address(port.reports[0]), n * sizeof(Report))
    port.n_reports = 0
    port.announced = 0
    return n


def _cmd_silent(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The units of the requests that the device has forgotten (arg, arg2: as commands.overdue()), to out, each once;
    returns how many, at most MAX_SILENT."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    found: U64Ptr = cast(U64Ptr, c.out)
    i: uint32_t
    k: int64_t
    n: int64_t = 0
    unit: uint64_t
    for i in range(q.vq.size):
        if not commands.overdue(q, i, cast(uint64_t, c.arg), cast(uint64_t, c.arg2)) or n == MAX_SILENT:
            continue
        unit = q.slots[i].io.channel.bdev.unit
        k = 0
        while k < n and found[k] != unit:
            k += 1
        if k == n:
            found[n] = unit
            n += 1
    return n


def _cmd_overdue(p: PollerPtr, c: CommandPtr) -> int64_t:
    """The requests on the ring for unit arg2 whose I/O was submitted before arg (ns), to out; returns how many, at most
    MAX_OVERDUE. If the device aborts them, they have timed out."""
    q: IoQueuePtr = cast(IoQueuePtr, c.ctx)
    port: PortPtr = cast(PortPtr, q.kind)
    before: uint64_t = cast(uint64_t, c.arg)
    unit: uint64_t = cast(uint64_t, c.arg2)
    found: U64Ptr = cast(U64Ptr, c.out)
    i: uint32_t
    n: int64_t = 0
    for i in range(q.vq.size):
        if (
            q.slots[i].used
            and q.slots[i].io != NULL
            and q.slots[i].command == NULL  # what is written again has a deadline of its own
            and q.slots[i].due == 0
            and q.slots[i].io.submitted_ns < before
            and q.slots[i].io.channel.bdev.unit == unit
            and n < MAX_OVERDUE
        ):
            port.tags[i].aborted = 1
            found[n] = port.tags[i].id
            n += 1
    return n


# ---- control plane ------------------------------------------------------------------------------


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _announced(m: MessagePtr, p: PollerPtr) -> cython.void:
    """Does nothing: the control plane's mailbox does not run messages."""


class CallBuffers:
    """DMA memory for what units answer: `count` buffers of `size` bytes (a power of two), of which devices are told
    before they run."""

    def __init__(self, memory: DmaMemory, count: int, size: int) -> None:
        self.memory = memory
        self.size = size
        self._count = count
        self.address = memory.allocate(count * size, size)  # so that none lies in two pages
        self._free = [self.address + i * size for i in range(count)]

    def another(self) -> CallBuffers:
        """As many, elsewhere."""
        return CallBuffers(self.memory, self._count, self.size)

    def take(self) -> int:
        """The address of a free buffer. Raises Busy when the device still has all of them."""
        if not self._free:
            raise Busy("the device has not answered any of its commands")
        return self._free.pop()

    def give(self, buffer: int) -> None:
        self._free.append(buffer)

    def close(self) -> None:
        """The device is cut off."""
        self.memory.free(self.address)


class ScsiCall:
    """A command to a unit and what came back; its buffer is kept until the device has answered or is cut off.

    lun: the unit's address, 8 bytes; length: bytes that the device may answer.
    """

    call: Call
    buffers: CallBuffers
    channels: BdevChannels
    length: int

    def __cinit__(self) -> None:
        memset(address(self.call), 0, sizeof(self.call))

    def __init__(
        self, buffers: CallBuffers, lun: bytes, cdb: bytes, length: int, channels: BdevChannels | None = None
    ) -> None:
        """channels: of the unit's bdev, which the answer may put in doubt."""
        text: BytePtr = lun
        if len(lun) != 8 or not 6 <= len(cdb) <= CDB_ROOM or length > buffers.size:
            raise ValueError(f"unit address of {len(lun)} bytes, CDB of {len(cdb)}, {length} bytes to answer")
        memcpy(address(self.call.lun), text, 8)
        text = cdb
        memcpy(address(self.call.cdb[0]), text, len(cdb))
        self.length = length
        self.call.length = length
        self.buffers = buffers
        self.channels = channels
        if channels is not None:
            self.call.bdev = address(channels.core)
        self.call.data = buffers.take()

    @property
    def opcode(self) -> int:
        return self.call.cdb[0]

    @property
    def id(self) -> int:
        """The id of its request, for task management; 0 when it was not sent yet."""
        return atomics.load_u64(address(self.call.id))

    @property
    def response(self) -> int:
        """The response (§5.6.6.1); 255 when the device wrote none."""
        return self.call.response

    @property
    def status(self) -> int:
        return self.call.status

    @property
    def sense(self) -> bytes:
        return bytes(self.call.sense[: self.call.sense_len])

    @property
    def data(self) -> bytes:
        """The data, as long as the device says that it sent."""
        size: uint32_t = self.call.length - min(self.call.resid, self.call.length)
        return bytes(self.buffers.memory.view(self.call.data, size)) if size else b""

    def __del__(self) -> None:
        if self.call.data:
            self.buffers.give(self.call.data)
            self.call.data = 0


class ScsiQueue(RequestQueue):
    """A request queue of a virtio-scsi controller.

    retry_s: how long an I/O is retried (seconds) while its unit is busy.
    """

    port: Port

    def __init__(self, memory: DmaMemory, poller: Poller, spec: RingSpec, config: ScsiConfig, retry_s: float) -> None:
        cdb_size, sense_size = config.cdb_size, config.sense_size
        if not MIN_CDB <= cdb_size <= CDB_ROOM or not FIXED_SENSE <= sense_size <= SENSE_ROOM:
            raise ValueError(f"CDBs of {cdb_size} bytes, sense of {sense_size}")
        self.port.cdb_size = cdb_size
        self.port.sense_size = sense_size
        self.port.retry_ns = cast(uint64_t, retry_s * 1e9)
        self.port.next_id = cast(uint64_t, spec.index) << 48  # ids are unique in the device
        self.port.event.run = _announced
        self.port.tags = cast(TagPtr, calloc(spec.size, sizeof(self.port.tags[0])))
        if self.port.tags == NULL:
            raise MemoryError
        self.q.kind = address(self.port)
        self.port.response_at = max(RESPONSE_AT, (CMD_HEADER + cdb_size + 7) & ~7)
        self.port.unmap_at = (self.port.response_at + RESP_HEADER + sense_size + 7) & ~7
        area: int = self.port.unmap_at + UNMAP_HEADER + UNMAP_RANGE * MAX_UNMAP_RANGES
        self.q.ops.build = request.build
        self.q.ops.result = result.judge
        self.allocate(memory, poller, spec, area)

    def join(self, queues: list[ScsiQueue]) -> None:
        """The controller's request queues, before the first I/O: see siblings.py."""
        i: cython.int = 0
        others = [other for other in queues if other is not self]
        self.port.siblings = cast(SiblingPtr, calloc(max(1, len(others)), sizeof(self.port.siblings[0])))
        if self.port.siblings == NULL:
            raise MemoryError
        for one in others:
            other: ScsiQueue = one
            self.port.siblings[i].queue = address(other.q)
            i += 1
        self.port.n_siblings = i

    def reset(self) -> None:
        """Empties the ring, as RequestQueue.reset(): flushes of before have to be done again."""
        i: uint32_t
        RequestQueue.reset(self)
        for i in range(self.q.vq.size):
            self.port.tags[i].confirming = 0

    async def call(self, call: ScsiCall) -> None:
        """Sends a command; returns when the device has answered.

        Raises Busy when I/O has all of the queue, DeviceError when it could not be sent, or was cut off.

        It may be cancelled: the command then is in flight until the device answers.
        """
        ret: int = await self.request(address(call.call), call)
        if ret in {-EBUSY, -ENOSPC}:
            raise Busy(f"command {call.call.cdb[0]:#04x}: the queue is full")
        if ret:
            raise DeviceError(f"command {call.call.cdb[0]:#04x} was not sent", -ret)

    def listen(self, on_report: Callable[[], None]) -> None:
        """Has on_report called once, when there are reports to take. Call it before take_reports()."""
        self.poller.control.expect(address(self.port.event), on_report)

    def unlisten(self) -> None:
        self.poller.control.forget(address(self.port.event))

    def _take(self, found: bytearray) -> asyncio.Future[int]:
        data: BytePtr = found
        return self.poller.command(_cmd_take_reports, address(self.q), 0, 0, cast(VoidPtr, data), (found, self))

    async def take_reports(self) -> list[UnitReport]:
        """The reports since the last call."""
        found = bytearray(MAX_REPORTS * sizeof(Report))
        n: int = await self._take(found)
        size: int = sizeof(Report)
        return [_unpack_report(bytes(found[i * size : (i + 1) * size])) for i in range(n)]

    def _silent(self, before: uint64_t, timeout: uint64_t, found: bytearray) -> asyncio.Future[int]:
        data: BytePtr = found
        return self.poller.command(_cmd_silent, address(self.q), before, timeout, cast(VoidPtr, data), (found, self))

    async def silent(self, before_ns: int, timeout_ns: int) -> set[bytes]:
        """The units (8 bytes: their addresses) that have requests which overdue() counts."""
        found = bytearray(MAX_SILENT * 8)
        n: int = await self._silent(before_ns, timeout_ns, found)
        return {bytes(found[8 * i : 8 * i + 8]) for i in range(n)}

    def _overdue(self, before: uint64_t, unit: uint64_t, found: bytearray) -> asyncio.Future[int]:
        data: BytePtr = found
        return self.poller.command(_cmd_overdue, address(self.q), before, unit, cast(VoidPtr, data), (found, self))

    async def overdue_tasks(self, unit: bytes, before_ns: int) -> list[int]:
        """Ids of the requests for a unit whose I/O was submitted before that time (CLOCK_MONOTONIC, ns)."""
        found = bytearray(MAX_OVERDUE * 8)
        n: int = await self._overdue(before_ns, int.from_bytes(unit, "little"), found)
        return [int.from_bytes(found[8 * i : 8 * i + 8], "little") for i in range(n)]

    def __dealloc__(self) -> None:
        free(self.port.tags)
        free(self.port.siblings)


def _unpack_report(data: bytes) -> UnitReport:
    numbers = [int.from_bytes(data[i : i + 8], "little") for i in (8, 16)]
    return UnitReport(
        data[:8], numbers[0], numbers[1], int.from_bytes(data[24:28], "little"), int.from_bytes(data[28:32], "little")
    )
