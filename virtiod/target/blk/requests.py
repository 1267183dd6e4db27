"""The embedded target's virtio-blk requests (virtio 1.2 §5.2.6), over a TargetDisk.

Faults are for tests of front-ends; they come after so many good requests, once and for good or each so many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import address, cast, sizeof
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.signal import SIGKILL
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, strncpy
from cython.cimports.virtiod.core import clock, linux
from cython.cimports.virtiod.core.types import CharPtr
from cython.cimports.virtiod.target import disk, ring
from cython.cimports.virtiod.target.blk.requests import BlkUnit, BlkUnitPtr, Fault
from cython.cimports.virtiod.target.disk import DiskPtr, TargetDisk
from cython.cimports.virtiod.target.ring import DevRingPtr, Held
from cython.cimports.virtiod.virtio import blk
from cython.cimports.virtiod.virtio.blk import BlkHeader, BlkRange, RangeFlag, RequestType, Status

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory

FAULTS = {
    "": Fault.NONE,
    "error": Fault.ERROR,
    "used-id": Fault.USED_ID,
    "used-index": Fault.USED_INDEX,
    "silence": Fault.SILENCE,
    "death": Fault.DEATH,
    "no-status": Fault.NO_STATUS,
}


def _range_request(q: DevRingPtr, d: DiskPtr, type: uint32_t, first: uint32_t) -> cython.int:
    """DISCARD and WRITE_ZEROES: any number of ranges."""
    what: BlkRange
    offset: uint64_t
    length: uint64_t
    if d.read_only:
        return Status.IOERR
    while ring.copy_out(q, address(what), sizeof(BlkRange), address(first)) == sizeof(BlkRange):
        offset = what.sector << blk.SECTOR_SHIFT
        length = cast(uint64_t, what.sectors) << blk.SECTOR_SHIFT
        if offset > d.size or length > d.size - offset:
            return Status.IOERR
        if what.flags & ~RangeFlag.MAY_UNMAP or (type == RequestType.DISCARD and what.flags):
            return Status.UNSUPP
        if disk.zero(d, offset, length) < 0:
            return Status.IOERR
    return Status.OK


def _transfer(
    q: DevRingPtr, d: DiskPtr, type: uint32_t, sector: uint64_t, first: uint32_t, in_bytes: uint64_t
) -> cython.int:
    """READ and WRITE of the data segments: out[first..] or into[] less the status byte."""
    n: uint32_t = q.n_in
    total: uint64_t = in_bytes
    offset: uint64_t = sector << blk.SECTOR_SHIFT
    i: uint32_t
    ret: cython.int
    if type == RequestType.OUT:
        n = q.n_out - first
        total = 0
        for i in range(n):
            total += q.out[first + i].iov_len
        if d.read_only:
            return Status.IOERR
    if (
        total & ((1 << blk.SECTOR_SHIFT) - 1)
        or sector >> (63 - blk.SECTOR_SHIFT)
        or offset > d.size
        or total > d.size - offset
    ):
        return Status.IOERR
    if type == RequestType.OUT:
        ret = disk.write(d, offset, total, address(q.out[first]), n)
    else:
        if n and q.into[n - 1].iov_len == 0:
            n -= 1
        ret = disk.read(d, offset, total, address(q.into[0]), n)
    return Status.OK if ret == 0 else Status.IOERR


def _execute(
    q: DevRingPtr, u: BlkUnitPtr, type: uint32_t, sector: uint64_t, first: uint32_t, in_bytes: uint64_t
) -> cython.int:
    """The status of a request whose data is out[first..] and in_bytes of into[]."""
    if type == RequestType.IN or type == RequestType.OUT:
        return _transfer(q, u.disk, type, sector, first, in_bytes)
    if type == RequestType.FLUSH:
        return Status.OK if disk.flush(u.disk) == 0 else Status.IOERR
    if type == RequestType.GET_ID:
        if in_bytes > blk.ID_BYTES:
            in_bytes = blk.ID_BYTES
        memcpy(q.into[0].iov_base, u.serial, in_bytes if in_bytes < q.into[0].iov_len else q.into[0].iov_len)
        return Status.OK
    if type == RequestType.DISCARD or type == RequestType.WRITE_ZEROES:
        return _range_request(q, u.disk, type, first)
    return Status.UNSUPP


def _due(q: DevRingPtr, u: BlkUnitPtr) -> cython.bint:
    """Whether the fault is for the request that came last."""
    each: uint64_t = u.fault_every or 1
    past: uint64_t
    if not u.fault or q.late or q.requests <= u.fault_after:
        return False
    past = q.requests - u.fault_after
    return past % each == 0 and (u.fault_times == 0 or past // each <= u.fault_times)


def _held_back(q: DevRingPtr, u: BlkUnitPtr, head: uint16_t) -> cython.bint:
    """Keep the request for later, if it is one that is not to be answered."""
    h: Held
    if u.fault != Fault.SILENCE or not u.late or not _due(q, u):
        return False
    h.due_ns = ring.HELD_FOR_EVER
    h.written = 0
    h.head = head
    ring.hold(q, address(h))
    return True


def _spoiled(q: DevRingPtr, u: BlkUnitPtr, head: uint16_t, result: cython.p_int) -> cython.bint:
    """Do what the fault asks for; true if the request needs no more."""
    if not _due(q, u):
        return False
    if u.fault == Fault.DEATH:
        linux.kill_self(SIGKILL)
    elif u.fault == Fault.ERROR:
        result[0] = Status.IOERR
        return False
    elif u.fault == Fault.USED_ID:
        ring.push(q, q.size + 7, 0)
    elif u.fault == Fault.USED_INDEX:
        q.used_idx += q.size + 1
        q.source.dirty = 1
    elif u.fault == Fault.NO_STATUS:
        ring.push(q, head, 0)
    return True


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    """Answer one request. Negative when the front-end broke the ring."""
    header: BlkHeader
    status: CharPtr
    first: uint32_t = 0
    in_bytes: uint64_t = 0
    i: uint32_t
    result: cython.int
    u: BlkUnitPtr = cast(BlkUnitPtr, q.device)
    h: Held
    if ring.collect(q, head) < 0 or q.n_in == 0 or q.into[q.n_in - 1].iov_len == 0:
        return -EINVAL
    if ring.copy_out(q, address(header), sizeof(BlkHeader), address(first)) != sizeof(BlkHeader):
        return -EINVAL
    q.into[q.n_in - 1].iov_len -= 1  # the last byte is the status, however the segments lie
    status = cast(CharPtr, q.into[q.n_in - 1].iov_base) + q.into[q.n_in - 1].iov_len
    for i in range(q.n_in):
        in_bytes += q.into[i].iov_len
    q.requests += 1
    if _held_back(q, u, head):
        return 0
    result = _execute(q, u, header.type, header.sector, first, in_bytes)
    if u.fault and _spoiled(q, u, head, address(result)):
        return 0
    status[0] = cast(cython.char, result)
    if u.delay_ns:
        h.due_ns = clock.now_ns() + u.delay_ns  # now is the round's start, which may be long before it came
        h.written = cast(uint32_t, in_bytes) + 1
        h.head = head
        ring.hold(q, address(h))
    else:
        ring.push(q, head, cast(uint32_t, in_bytes) + 1)
    return 0


class TargetUnit:
    """What all rings of a virtio-blk device serve: a disk, its serial (at most 20 bytes), faults."""

    unit: BlkUnit
    disk: TargetDisk

    def __init__(self, disk: TargetDisk, serial: str = "") -> None:
        data: bytes = serial.encode("ascii")[: blk.ID_BYTES]
        self.disk = disk
        self.unit.disk = address(disk.disk)
        strncpy(self.unit.serial, data, blk.ID_BYTES)

    def fault(
        self, kind: str, after: int = 0, every: int = 0, times: int = 0, delay_us: int = 0, late: bool = False
    ) -> None:
        """Spoil requests after so many good ones: all, or each so many; so many times (0: for good).

        delay_us holds back every completion. late: those that get no answer are done when the ring is asked to stop
        (BlkRing.be_late).
        """
        self.unit.late = late
        self.unit.fault = FAULTS[kind]
        self.unit.fault_after = after
        self.unit.fault_every = every
        self.unit.fault_times = times
        self.unit.delay_ns = delay_us * 1000


class BlkRing(DeviceRing):
    """A request queue of a virtio-blk device."""

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, unit: TargetUnit) -> None:
        DeviceRing.__init__(self, poller, memory, setup, unit)
        self.q.serve = _serve
        self.q.device = address(unit.unit)
