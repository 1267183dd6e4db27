"""The embedded target's data path: the device side of a split ring (virtio 1.2 §2.7) and a virtio-blk disk behind it.

The front-end is as little trusted as a device is by the driver: each descriptor is read once, every address is looked
up in the memory table, a chain has at most MAX_SEGMENTS descriptors. A ring that breaks a rule is served no more.
Faults are for tests of front-ends; they come after so many good requests, once and for good or each so many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.signal import SIGKILL
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset, strncpy
from cython.cimports.posix.unistd import fdatasync, write
from cython.cimports.virtiod.dataplane.atomics import (
    vd_fence,
    vd_load_u16,
    vd_load_u32,
    vd_store_u16,
    vd_store_u32,
)
from cython.cimports.virtiod.dataplane.blk import (
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
from cython.cimports.virtiod.dataplane.devq import (
    DISK_FILE,
    DISK_MEMORY,
    DISK_NULL,
    FAULT_DEATH,
    FAULT_ERROR,
    FAULT_NO_STATUS,
    FAULT_NONE,
    FAULT_SILENCE,
    FAULT_USED_ID,
    FAULT_USED_INDEX,
    MAX_REGIONS,
    MAX_SEGMENTS,
    Delayed,
    DelayedPtr,
    DevQueue,
    DevQueuePtr,
    Disk,
    DiskPtr,
    MemRegionPtr,
    MemTable,
    MemTablePtr,
)
from cython.cimports.virtiod.dataplane.linux import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    fallocate,
    kill_self,
    preadv,
    pwritev,
)
from cython.cimports.virtiod.dataplane.poller import poller_add_source, poller_remove_source
from cython.cimports.virtiod.dataplane.structs import CharPtr, CommandPtr, IovPtr, PollerPtr, SourcePtr, VoidPtr
from cython.cimports.virtiod.dataplane.vring import (
    AVAIL_NO_INTERRUPT,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    USED_NO_NOTIFY,
    DescPtr,
    U16Ptr,
    U32Ptr,
    UsedElemPtr,
    VringDesc,
)

if TYPE_CHECKING:
    import asyncio

    from virtiod.dataplane.poller import Poller

BATCH = cython.declare(cython.int, 64)
FAULTS = {
    "": FAULT_NONE,
    "error": FAULT_ERROR,
    "used-id": FAULT_USED_ID,
    "used-index": FAULT_USED_INDEX,
    "silence": FAULT_SILENCE,
    "death": FAULT_DEATH,
    "no-status": FAULT_NO_STATUS,
}


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _min(a: uint64_t, b: uint64_t) -> uint64_t:
    return a if a < b else b


# ---- chains -------------------------------------------------------------------------------------


def _translate(t: MemTablePtr, addr: uint64_t, length: uint64_t) -> CharPtr:
    """Where length bytes at the front-end's address are here; NULL if they are not all in one region."""
    i: uint32_t
    r: MemRegionPtr
    offset: uint64_t
    for i in range(vd_load_u32(cython.address(t.n))):
        r = cython.address(t.regions[i])
        offset = addr - r.guest
        if addr >= r.guest and offset < r.size and length <= r.size - offset:
            return r.local + offset
    return cython.NULL


def _add_segment(q: DevQueuePtr, d: DescPtr) -> cython.int:
    local: CharPtr = _translate(q.table, d.addr, d.len)
    if local == cython.NULL:
        return -EINVAL
    if d.flags & DESC_WRITE:
        if q.n_in == MAX_SEGMENTS:
            return -EINVAL
        q.into[q.n_in].iov_base = local
        q.into[q.n_in].iov_len = d.len
        q.n_in += 1
    else:
        if q.n_in or q.n_out == MAX_SEGMENTS:  # §2.7.4.2: readable ones come first
            return -EINVAL
        q.out[q.n_out].iov_base = local
        q.out[q.n_out].iov_len = d.len
        q.n_out += 1
    return 0


def _collect_table(q: DevQueuePtr, table: DescPtr, n: uint32_t, at: uint32_t) -> cython.int:
    """Follow a chain from table[at]; each descriptor is copied before it is looked at."""
    steps: uint32_t
    d: VringDesc
    inner: CharPtr
    for steps in range(cython.cast(uint32_t, MAX_SEGMENTS)):
        if at >= n:
            return -EINVAL
        d = table[at]
        if d.flags & DESC_INDIRECT:
            if table == q.scratch or d.flags & DESC_NEXT or d.len & 15 or d.len == 0 or d.len > 16 * MAX_SEGMENTS:
                return -EINVAL
            inner = _translate(q.table, d.addr, d.len)
            if inner == cython.NULL:
                return -EINVAL
            memcpy(q.scratch, inner, d.len)
            return _collect_table(q, q.scratch, d.len >> 4, 0)
        if _add_segment(q, cython.address(d)) < 0:
            return -EINVAL
        if not d.flags & DESC_NEXT:
            return 0
        at = d.next
    return -EINVAL


def _collect(q: DevQueuePtr, head: uint16_t) -> cython.int:
    """Fill out and into from the chain at head. -EINVAL for a malformed one."""
    q.n_out = 0
    q.n_in = 0
    return _collect_table(q, q.desc, q.size, head)


def _copy_out(q: DevQueuePtr, to: VoidPtr, n: uint64_t, index: U32Ptr) -> uint64_t:
    """Take n bytes from the front of out[index[0]..]; index moves on. Returns how many there were."""
    done: uint64_t = 0
    take: uint64_t
    v: IovPtr
    while done < n and index[0] < q.n_out:
        v = cython.address(q.out[index[0]])
        take = _min(v.iov_len, n - done)
        memcpy(cython.cast(CharPtr, to) + done, v.iov_base, take)
        v.iov_base = cython.cast(CharPtr, v.iov_base) + take
        v.iov_len -= take
        done += take
        if v.iov_len == 0:
            index[0] += 1
    return done


# ---- requests -----------------------------------------------------------------------------------


def _fault(q: DevQueuePtr) -> cython.bint:
    """Is this request the one to spoil?"""
    d: DiskPtr = q.disk
    if d.fault == FAULT_NONE or q.requests <= d.fault_after:
        return False
    return d.fault_every == 0 or (q.requests - d.fault_after) % d.fault_every == 0


def _zero(d: DiskPtr, offset: uint64_t, length: uint64_t) -> cython.int:
    if d.kind == DISK_MEMORY:
        memset(d.memory + offset, 0, length)
    elif d.kind == DISK_FILE:
        if fallocate(d.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) < 0:
            return VIRTIO_BLK_S_IOERR
    return VIRTIO_BLK_S_OK


def _range_request(q: DevQueuePtr, type: uint32_t, first: uint32_t) -> cython.int:
    """DISCARD and WRITE_ZEROES: any number of ranges."""
    what: uint32_t[4]  # sector (64 bits), sectors, flags
    offset: uint64_t
    length: uint64_t
    if q.disk.read_only:
        return VIRTIO_BLK_S_IOERR
    while _copy_out(q, cython.address(what[0]), 16, cython.address(first)) == 16:
        offset = (cython.cast(uint64_t, what[1]) << 32 | what[0]) << 9
        length = cython.cast(uint64_t, what[2]) << 9
        if offset > q.disk.size or length > q.disk.size - offset:
            return VIRTIO_BLK_S_IOERR
        if what[3] & ~1 or (type == VIRTIO_BLK_T_DISCARD and what[3]):
            return VIRTIO_BLK_S_UNSUPP
        if _zero(q.disk, offset, length) != VIRTIO_BLK_S_OK:
            return VIRTIO_BLK_S_IOERR
    return VIRTIO_BLK_S_OK


def _transfer(q: DevQueuePtr, type: uint32_t, sector: uint64_t, first: uint32_t, in_bytes: uint64_t) -> cython.int:
    """READ and WRITE of the data segments: out[first..] or into[] less the status byte."""
    d: DiskPtr = q.disk
    v: IovPtr = cython.address(q.into[0])
    n: uint32_t = q.n_in if type == VIRTIO_BLK_T_IN else q.n_out - first
    total: uint64_t = in_bytes
    offset: uint64_t = sector << 9
    done: uint64_t = 0
    ret: cython.Py_ssize_t
    i: uint32_t
    if type == VIRTIO_BLK_T_OUT:
        v = cython.address(q.out[first])
        total = 0
        for i in range(n):
            total += v[i].iov_len
        if d.read_only:
            return VIRTIO_BLK_S_IOERR
    if total & 511 or sector >> 54 or offset > d.size or total > d.size - offset:
        return VIRTIO_BLK_S_IOERR
    if d.kind == DISK_NULL:
        return VIRTIO_BLK_S_OK
    if d.kind == DISK_MEMORY:
        for i in range(n):
            if type == VIRTIO_BLK_T_IN:
                memcpy(v[i].iov_base, d.memory + offset + done, v[i].iov_len)
            else:
                memcpy(d.memory + offset + done, v[i].iov_base, v[i].iov_len)
            done += v[i].iov_len
        return VIRTIO_BLK_S_OK
    if n and v[n - 1].iov_len == 0:
        n -= 1
    ret = preadv(d.fd, v, n, offset) if type == VIRTIO_BLK_T_IN else pwritev(d.fd, v, n, offset)
    return VIRTIO_BLK_S_OK if ret == cython.cast(cython.Py_ssize_t, total) else VIRTIO_BLK_S_IOERR


def _serve(q: DevQueuePtr, head: uint16_t, now: uint64_t) -> cython.int:
    """Answer one request. Negative when the front-end broke the ring."""
    header: uint32_t[4]  # type, reserved, sector (64 bits)
    status: CharPtr
    first: uint32_t = 0
    in_bytes: uint64_t = 0
    i: uint32_t
    result: cython.int = VIRTIO_BLK_S_OK
    d: DiskPtr = q.disk
    if _collect(q, head) < 0 or q.n_in == 0 or q.into[q.n_in - 1].iov_len == 0:
        return -EINVAL
    if _copy_out(q, cython.address(header[0]), 16, cython.address(first)) != 16:
        return -EINVAL
    q.into[q.n_in - 1].iov_len -= 1  # the last byte is the status, however the segments lie
    status = cython.cast(CharPtr, q.into[q.n_in - 1].iov_base) + q.into[q.n_in - 1].iov_len
    for i in range(q.n_in):
        in_bytes += q.into[i].iov_len
    q.requests += 1
    if header[0] == VIRTIO_BLK_T_IN or header[0] == VIRTIO_BLK_T_OUT:
        result = _transfer(q, header[0], cython.cast(uint64_t, header[3]) << 32 | header[2], first, in_bytes)
    elif header[0] == VIRTIO_BLK_T_FLUSH:
        if d.kind == DISK_FILE and fdatasync(d.fd) < 0:
            result = VIRTIO_BLK_S_IOERR
    elif header[0] == VIRTIO_BLK_T_GET_ID:
        in_bytes = _min(in_bytes, ID_BYTES)
        memcpy(q.into[0].iov_base, d.serial, _min(in_bytes, q.into[0].iov_len))
    elif header[0] == VIRTIO_BLK_T_DISCARD or header[0] == VIRTIO_BLK_T_WRITE_ZEROES:
        result = _range_request(q, header[0], first)
    else:
        result = VIRTIO_BLK_S_UNSUPP
    if d.fault and _fault(q):
        if d.fault == FAULT_SILENCE:
            return 0
        if d.fault == FAULT_DEATH:
            kill_self(SIGKILL)
        if d.fault == FAULT_ERROR:
            result = VIRTIO_BLK_S_IOERR
        if d.fault == FAULT_USED_ID:
            _push_used(q, q.size + 7, 0)
            return 0
        if d.fault == FAULT_USED_INDEX:
            q.used_idx += q.size + 1
            q.source.dirty = 1
            return 0
        if d.fault == FAULT_NO_STATUS:
            _push_used(q, head, 0)
            return 0
    status[0] = cython.cast(cython.char, result)
    if d.delay_ns:
        i = (q.delayed_head + q.delayed_n) & q.mask
        q.delayed[i].head = head
        q.delayed[i].written = cython.cast(uint32_t, in_bytes + 1)
        q.delayed[i].due_ns = now + d.delay_ns
        q.delayed_n += 1
    else:
        _push_used(q, head, cython.cast(uint32_t, in_bytes + 1))
    return 0


# ---- the ring -----------------------------------------------------------------------------------


def _push_used(q: DevQueuePtr, id: uint32_t, written: uint32_t) -> None:
    elem: UsedElemPtr = cython.address(q.used_ring[q.used_idx & q.mask])
    elem.id = id
    elem.len = written
    q.used_idx += 1
    q.source.dirty = 1


def _poll_delayed(q: DevQueuePtr, now: uint64_t) -> cython.int:
    n: cython.int = 0
    d: DelayedPtr
    while q.delayed_n:
        d = cython.address(q.delayed[q.delayed_head])
        if d.due_ns > now:
            break
        _push_used(q, d.head, d.written)
        q.delayed_head = (q.delayed_head + 1) & q.mask
        q.delayed_n -= 1
        n += 1
    return n


def _break(q: DevQueuePtr) -> None:
    """The front-end broke the ring: serve it no more, and say so."""
    one: uint64_t = 1
    q.broken = 1
    if q.err_fd >= 0:
        write(q.err_fd, cython.address(one), 8)


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevQueuePtr = cython.cast(DevQueuePtr, s)
    n: cython.int = 0
    seen: uint16_t
    count: uint16_t
    if q.broken:
        return 0
    if q.delayed_n:
        n = _poll_delayed(q, now)
    seen = vd_load_u16(cython.address(q.avail[1]))  # acquire: the entries before it are complete
    count = seen - q.last_avail
    if count == 0:
        return n
    if count > q.size or q.delayed_n + count > q.size:
        _break(q)
        return n
    if count > BATCH:
        count = cython.cast(uint16_t, BATCH)
    while count:
        count -= 1
        if _serve(q, vd_load_u16(cython.address(q.avail[2 + (q.last_avail & q.mask)])), now) < 0:
            _break(q)
            break
        q.last_avail += 1
        n += 1
    return n


def _flush(s: SourcePtr) -> None:
    """Publish what was completed, and interrupt if the driver asked for it (§2.7.7)."""
    q: DevQueuePtr = cython.cast(DevQueuePtr, s)
    one: uint64_t = 1
    old: uint16_t = q.published
    event: uint16_t
    vd_store_u16(cython.address(q.used[1]), q.used_idx)  # release: the entries are complete before the index
    q.published = q.used_idx
    vd_fence()  # the index is visible before the driver's wish is read; the driver does it the other way round
    if q.event_idx:
        event = vd_load_u16(cython.address(q.avail[2 + q.size]))
        if cython.cast(uint16_t, q.used_idx - event - 1) >= cython.cast(uint16_t, q.used_idx - old):
            return
    elif vd_load_u16(q.avail) & AVAIL_NO_INTERRUPT:
        return
    if q.call_fd >= 0:
        write(q.call_fd, cython.address(one), 8)
        q.interrupts += 1


def _arm(s: SourcePtr) -> cython.bint:
    q: DevQueuePtr = cython.cast(DevQueuePtr, s)
    if q.broken:
        return False
    if q.delayed_n:
        return True
    if q.event_idx:
        vd_store_u16(q.avail_event, q.last_avail)
    else:
        vd_store_u16(q.used, 0)
    vd_fence()  # the wish is visible before the index is read
    return vd_load_u16(cython.address(q.avail[1])) != q.last_avail


def _disarm(s: SourcePtr) -> None:
    q: DevQueuePtr = cython.cast(DevQueuePtr, s)
    if q.event_idx:
        vd_store_u16(q.avail_event, q.last_avail - 1)  # kicks again only after 65535 more entries
    else:
        vd_store_u16(q.used, USED_NO_NOTIFY)


def _cmd_start(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevQueuePtr = cython.cast(DevQueuePtr, c.ctx)
    _disarm(cython.address(q.source))
    return poller_add_source(p, cython.address(q.source))


def _cmd_stop(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevQueuePtr = cython.cast(DevQueuePtr, c.ctx)
    if q.source.dirty:
        q.source.dirty = 0
        _flush(cython.address(q.source))
    poller_remove_source(p, cython.address(q.source))
    return q.last_avail


# ---- control plane ------------------------------------------------------------------------------


class TargetMemory:
    """A front-end's memory: regions of (address in descriptors, size, address here)."""

    table: MemTable

    def __init__(self, regions: Sequence[tuple[int, int, int]] = ()) -> None:
        self.update(regions)

    def update(self, regions: Sequence[tuple[int, int, int]]) -> None:
        """Take these for all; while queues run, regions may only be added at the end."""
        if len(regions) > MAX_REGIONS:
            raise ValueError(f"{len(regions)} memory regions, at most {MAX_REGIONS} work")
        for i, (guest, size, local) in enumerate(regions):
            self.table.regions[i].guest = guest
            self.table.regions[i].size = size
            self.table.regions[i].local = cython.cast(CharPtr, cython.cast(uint64_t, local))
        vd_store_u32(cython.address(self.table.n), len(regions))  # release: the new regions are complete


class TargetDisk:
    """A virtio-blk disk over nothing (address 0, fd -1), memory, or a file. size in bytes."""

    disk: Disk
    keep: object

    def __init__(
        self,
        size: int,
        address: int = 0,
        fd: int = -1,
        read_only: bool = False,
        serial: str = "",
        keep: object = None,
    ) -> None:
        data: bytes = serial.encode("ascii")[:20]
        self.keep = keep
        self.disk.size = size
        self.disk.memory = cython.cast(CharPtr, cython.cast(uint64_t, address))
        self.disk.fd = fd
        self.disk.kind = DISK_MEMORY if address else DISK_FILE if fd >= 0 else DISK_NULL
        self.disk.read_only = read_only
        strncpy(self.disk.serial, data, 20)

    def resize(self, size: int) -> None:
        """Change the size in bytes; memory or file must be there."""
        self.disk.size = size

    def fault(self, kind: str, after: int = 0, every: int = 0, delay_us: int = 0) -> None:
        """Spoil requests after so many good ones: for good, or each so many; delay_us holds back every completion."""
        self.disk.fault = FAULTS[kind]
        self.disk.fault_after = after
        self.disk.fault_every = every
        self.disk.delay_ns = delay_us * 1000


class TargetQueue:
    """A running ring of a target, from start() to stop()."""

    q: DevQueuePtr
    poller: Poller
    keep: object

    def __init__(
        self,
        poller: Poller,
        memory: TargetMemory,
        disk: TargetDisk,
        size: int,
        desc: int,
        avail: int,
        used: int,
        base: int,
        kick_fd: int,
        call_fd: int,
        err_fd: int,
        event_idx: bool,
    ) -> None:
        self.poller = poller
        self.keep = (memory, disk)
        self.q = cython.cast(DevQueuePtr, calloc(1, cython.sizeof(DevQueue)))
        if self.q == cython.NULL:
            raise MemoryError
        self.q.delayed = cython.cast(DelayedPtr, calloc(size, cython.sizeof(Delayed)))
        if self.q.delayed == cython.NULL:
            raise MemoryError
        self.q.table = cython.address(memory.table)
        self.q.disk = cython.address(disk.disk)
        self.q.size = size
        self.q.mask = size - 1
        self.q.desc = cython.cast(DescPtr, cython.cast(uint64_t, desc))
        self.q.avail = cython.cast(U16Ptr, cython.cast(uint64_t, avail))
        self.q.used = cython.cast(U16Ptr, cython.cast(uint64_t, used))
        self.q.used_ring = cython.cast(UsedElemPtr, cython.cast(uint64_t, used) + 4)
        self.q.avail_event = cython.cast(U16Ptr, cython.cast(uint64_t, used) + 4 + 8 * cython.cast(uint64_t, size))
        self.q.last_avail = base
        self.q.used_idx = vd_load_u16(cython.address(self.q.used[1]))
        self.q.published = self.q.used_idx
        self.q.event_idx = event_idx
        self.q.call_fd = call_fd
        self.q.err_fd = err_fd
        self.q.source.fd = kick_fd
        self.q.source.poll = _poll
        self.q.source.flush = _flush
        self.q.source.arm = _arm
        self.q.source.disarm = _disarm
        memcpy(self.q.source.name, cython.cast(CharPtr, b"target_queue\0"), 13)

    def _command(self, start: cython.bint) -> asyncio.Future[int]:
        return self.poller.command(_cmd_start if start else _cmd_stop, self.q, 0, 0, cython.NULL, self)

    async def start(self) -> None:
        """Serve the ring."""
        ret: int = await self._command(True)
        if ret:
            raise OSError(-ret, "poll a target queue")
        self.poller.own(cython.address(self.q.source), self)

    async def stop(self) -> int:
        """Serve it no more; returns the next avail index. Requests that are held back are forgotten."""
        base: int = await self._command(False)
        self.poller.disown(cython.address(self.q.source))
        return base

    def counters(self) -> dict[str, int]:
        return {"requests": self.q.requests, "interrupts": self.q.interrupts, "broken": self.q.broken}

    def __dealloc__(self) -> None:
        if self.q != cython.NULL:
            free(self.q.delayed)
            free(self.q)
