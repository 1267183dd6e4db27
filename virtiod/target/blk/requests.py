"""The embedded target's virtio-blk requests (virtio 1.2 §5.2.6), over a TargetDisk.

Faults are for tests of front-ends; they come after so many good requests, once and for good or each so many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.signal import SIGKILL
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, strncpy
from cython.cimports.virtiod.controllers.blk.queue import (
    ID_BYTES,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)
from cython.cimports.virtiod.core.atomics import vd_clock_ns
from cython.cimports.virtiod.core.linux import kill_self
from cython.cimports.virtiod.core.types import CharPtr
from cython.cimports.virtiod.target.blk.requests import (
    FAULT_DEATH,
    FAULT_ERROR,
    FAULT_NO_STATUS,
    FAULT_NONE,
    FAULT_SILENCE,
    FAULT_USED_ID,
    FAULT_USED_INDEX,
    BlkUnit,
    BlkUnitPtr,
)
from cython.cimports.virtiod.target.disk import (
    DiskPtr,
    TargetDisk,
    disk_flush,
    disk_read,
    disk_write,
    disk_zero,
)
from cython.cimports.virtiod.target.ring import (
    DevRingPtr,
    Held,
    ring_collect,
    ring_copy_out,
    ring_hold,
    ring_push,
)

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory

FAULTS = {
    "": FAULT_NONE,
    "error": FAULT_ERROR,
    "used-id": FAULT_USED_ID,
    "used-index": FAULT_USED_INDEX,
    "silence": FAULT_SILENCE,
    "death": FAULT_DEATH,
    "no-status": FAULT_NO_STATUS,
}


def _range_request(q: DevRingPtr, d: DiskPtr, type: uint32_t, first: uint32_t) -> cython.int:
    """DISCARD and WRITE_ZEROES: any number of ranges."""
    what: uint32_t[4]  # sector (64 bits), sectors, flags
    offset: uint64_t
    length: uint64_t
    if d.read_only:
        return VIRTIO_BLK_S_IOERR
    while ring_copy_out(q, cython.address(what[0]), 16, cython.address(first)) == 16:
        offset = (cython.cast(uint64_t, what[1]) << 32 | what[0]) << 9
        length = cython.cast(uint64_t, what[2]) << 9
        if offset > d.size or length > d.size - offset:
            return VIRTIO_BLK_S_IOERR
        if what[3] & ~1 or (type == VIRTIO_BLK_T_DISCARD and what[3]):
            return VIRTIO_BLK_S_UNSUPP
        if disk_zero(d, offset, length) < 0:
            return VIRTIO_BLK_S_IOERR
    return VIRTIO_BLK_S_OK


def _transfer(
    q: DevRingPtr, d: DiskPtr, type: uint32_t, sector: uint64_t, first: uint32_t, in_bytes: uint64_t
) -> cython.int:
    """READ and WRITE of the data segments: out[first..] or into[] less the status byte."""
    n: uint32_t = q.n_in
    total: uint64_t = in_bytes
    offset: uint64_t = sector << 9
    i: uint32_t
    ret: cython.int
    if type == VIRTIO_BLK_T_OUT:
        n = q.n_out - first
        total = 0
        for i in range(n):
            total += q.out[first + i].iov_len
        if d.read_only:
            return VIRTIO_BLK_S_IOERR
    if total & 511 or sector >> 54 or offset > d.size or total > d.size - offset:
        return VIRTIO_BLK_S_IOERR
    if type == VIRTIO_BLK_T_OUT:
        ret = disk_write(d, offset, total, cython.address(q.out[first]), n)
    else:
        if n and q.into[n - 1].iov_len == 0:
            n -= 1
        ret = disk_read(d, offset, total, cython.address(q.into[0]), n)
    return VIRTIO_BLK_S_OK if ret == 0 else VIRTIO_BLK_S_IOERR


def _execute(
    q: DevRingPtr, u: BlkUnitPtr, type: uint32_t, sector: uint64_t, first: uint32_t, in_bytes: uint64_t
) -> cython.int:
    """The status of a request whose data is out[first..] and in_bytes of into[]."""
    if type == VIRTIO_BLK_T_IN or type == VIRTIO_BLK_T_OUT:
        return _transfer(q, u.disk, type, sector, first, in_bytes)
    if type == VIRTIO_BLK_T_FLUSH:
        return VIRTIO_BLK_S_OK if disk_flush(u.disk) == 0 else VIRTIO_BLK_S_IOERR
    if type == VIRTIO_BLK_T_GET_ID:
        if in_bytes > ID_BYTES:
            in_bytes = ID_BYTES
        memcpy(q.into[0].iov_base, u.serial, in_bytes if in_bytes < q.into[0].iov_len else q.into[0].iov_len)
        return VIRTIO_BLK_S_OK
    if type == VIRTIO_BLK_T_DISCARD or type == VIRTIO_BLK_T_WRITE_ZEROES:
        return _range_request(q, u.disk, type, first)
    return VIRTIO_BLK_S_UNSUPP


def _spoiled(q: DevRingPtr, u: BlkUnitPtr, head: uint16_t, result: cython.p_int) -> cython.bint:
    """Do what the fault asks for; true if the request needs no more."""
    if q.requests <= u.fault_after:
        return False
    if u.fault_every and (q.requests - u.fault_after) % u.fault_every:
        return False
    if u.fault == FAULT_DEATH:
        kill_self(SIGKILL)
    elif u.fault == FAULT_ERROR:
        result[0] = VIRTIO_BLK_S_IOERR
        return False
    elif u.fault == FAULT_USED_ID:
        ring_push(q, q.size + 7, 0)
    elif u.fault == FAULT_USED_INDEX:
        q.used_idx += q.size + 1
        q.source.dirty = 1
    elif u.fault == FAULT_NO_STATUS:
        ring_push(q, head, 0)
    return True


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    """Answer one request. Negative when the front-end broke the ring."""
    header: uint32_t[4]  # type, reserved, sector (64 bits)
    status: CharPtr
    first: uint32_t = 0
    in_bytes: uint64_t = 0
    i: uint32_t
    result: cython.int
    u: BlkUnitPtr = cython.cast(BlkUnitPtr, q.device)
    h: Held
    if ring_collect(q, head) < 0 or q.n_in == 0 or q.into[q.n_in - 1].iov_len == 0:
        return -EINVAL
    if ring_copy_out(q, cython.address(header[0]), 16, cython.address(first)) != 16:
        return -EINVAL
    q.into[q.n_in - 1].iov_len -= 1  # the last byte is the status, however the segments lie
    status = cython.cast(CharPtr, q.into[q.n_in - 1].iov_base) + q.into[q.n_in - 1].iov_len
    for i in range(q.n_in):
        in_bytes += q.into[i].iov_len
    q.requests += 1
    result = _execute(q, u, header[0], cython.cast(uint64_t, header[3]) << 32 | header[2], first, in_bytes)
    if u.fault and _spoiled(q, u, head, cython.address(result)):
        return 0
    status[0] = cython.cast(cython.char, result)
    if u.delay_ns:
        h.due_ns = vd_clock_ns() + u.delay_ns  # now is the round's start, which may be long before it came
        h.written = cython.cast(uint32_t, in_bytes) + 1
        h.head = head
        ring_hold(q, cython.address(h))
    else:
        ring_push(q, head, cython.cast(uint32_t, in_bytes) + 1)
    return 0


class TargetUnit:
    """What all rings of a virtio-blk device serve: a disk, its serial (at most 20 bytes), faults."""

    unit: BlkUnit
    disk: TargetDisk

    def __init__(self, disk: TargetDisk, serial: str = "") -> None:
        data: bytes = serial.encode("ascii")[:20]
        self.disk = disk
        self.unit.disk = cython.address(disk.disk)
        strncpy(self.unit.serial, data, 20)

    def fault(self, kind: str, after: int = 0, every: int = 0, delay_us: int = 0) -> None:
        """Spoil requests after so many good ones: for good, or each so many; delay_us holds back every completion."""
        self.unit.fault = FAULTS[kind]
        self.unit.fault_after = after
        self.unit.fault_every = every
        self.unit.delay_ns = delay_us * 1000


class BlkRing(DeviceRing):
    """A request queue of a virtio-blk device."""

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, unit: TargetUnit) -> None:
        DeviceRing.__init__(self, poller, memory, setup, unit)
        self.q.serve = _serve
        self.q.device = cython.address(unit.unit)
