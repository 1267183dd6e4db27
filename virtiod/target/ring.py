"""The device side of a split ring (virtio 1.2 §2.7), for the embedded target's devices.

The front-end is as little trusted as a device is by the driver: each descriptor is read once, every address is looked
up in the memory table, a chain has at most MAX_CHAIN descriptors. A ring that breaks a rule is served no more.
A device gives a serve function, which gets each chain as two lists of segments, and completes it or has it held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import int64_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import write
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, CommandPtr, IovPtr, PollerPtr, SourcePtr, VoidPtr
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.target.ring import (
    BATCH,
    HELD_FOR_EVER,
    MAX_CHAIN,
    MAX_REGIONS,
    DevRing,
    DevRingPtr,
    Held,
    HeldPtr,
    MemRegionPtr,
    MemTable,
    MemTablePtr,
)
from cython.cimports.virtiod.virtqueue.layout import (
    AvailFlag,
    AvailPtr,
    DescFlag,
    DescPtr,
    U16Ptr,
    U32Ptr,
    UsedElemPtr,
    UsedFlag,
    UsedPtr,
    VringDesc,
)

if TYPE_CHECKING:
    import asyncio

    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _min(a: uint64_t, b: uint64_t) -> uint64_t:
    return a if a < b else b


def _translate(t: MemTablePtr, addr: uint64_t, length: uint64_t) -> CharPtr:
    """Where length bytes at the front-end's address are here; NULL if they are not all in one region."""
    i: uint32_t
    r: MemRegionPtr
    offset: uint64_t
    for i in range(atomics.load_u32(address(t.n))):
        r = address(t.regions[i])
        offset = addr - r.guest
        if addr >= r.guest and offset < r.size and length <= r.size - offset:
            return r.local + offset
    return NULL


def _add_segment(q: DevRingPtr, d: DescPtr) -> cython.int:
    local: CharPtr = _translate(q.table, d.addr, d.len)
    if local == NULL:
        return -EINVAL
    if d.flags & DescFlag.WRITE:
        if q.n_in == MAX_CHAIN:
            return -EINVAL
        q.into[q.n_in].iov_base = local
        q.into[q.n_in].iov_len = d.len
        q.n_in += 1
    else:
        if q.n_in or q.n_out == MAX_CHAIN:  # §2.7.4.2: readable ones come first
            return -EINVAL
        q.out[q.n_out].iov_base = local
        q.out[q.n_out].iov_len = d.len
        q.n_out += 1
    return 0


def _collect_table(q: DevRingPtr, table: DescPtr, n: uint32_t, at: uint32_t) -> cython.int:
    """Follow a chain from table[at]; each descriptor is copied before it is looked at."""
    _step: uint32_t
    d: VringDesc
    inner: CharPtr
    for _step in range(cast(uint32_t, MAX_CHAIN)):
        if at >= n:
            return -EINVAL
        d = table[at]
        if d.flags & DescFlag.INDIRECT:
            n = d.len // sizeof(VringDesc)
            if table == q.scratch or d.flags & DescFlag.NEXT or d.len % sizeof(VringDesc) or n == 0 or n > MAX_CHAIN:
                return -EINVAL
            inner = _translate(q.table, d.addr, d.len)
            if inner == NULL:
                return -EINVAL
            memcpy(q.scratch, inner, d.len)
            return _collect_table(q, q.scratch, n, 0)
        if _add_segment(q, address(d)) < 0:
            return -EINVAL
        if not d.flags & DescFlag.NEXT:
            return 0
        at = d.next
    return -EINVAL


def collect(q: DevRingPtr, head: uint16_t) -> cython.int:
    """Fill out and into from the chain at head. -EINVAL for a malformed one."""
    q.n_out = 0
    q.n_in = 0
    return _collect_table(q, q.desc, q.size, head)


def copy_out(q: DevRingPtr, to: VoidPtr, n: uint64_t, index: U32Ptr) -> uint64_t:
    """Take n bytes from the front of out[index[0]..]; index moves on. Returns how many there were."""
    done: uint64_t = 0
    take: uint64_t
    v: IovPtr
    while done < n and index[0] < q.n_out:
        v = address(q.out[index[0]])
        take = _min(v.iov_len, n - done)
        memcpy(cast(CharPtr, to) + done, v.iov_base, take)
        v.iov_base = cast(CharPtr, v.iov_base) + take
        v.iov_len -= take
        done += take
        if v.iov_len == 0:
            index[0] += 1
    return done


# ---- the ring


def push(q: DevRingPtr, id: uint32_t, written: uint32_t) -> None:
    """Complete a request; it is seen at the next flush."""
    elem: UsedElemPtr = address(q.used.ring[q.used_idx & q.mask])
    elem.id = id
    elem.len = written
    q.used_idx += 1
    q.source.dirty = 1


def hold(q: DevRingPtr, h: HeldPtr) -> None:
    """Complete it when it is due. There is room: poll takes no more than the ring has entries."""
    q.held[q.n_held] = h[0]
    q.n_held += 1
    if h.due_ns < q.next_due_ns:
        q.next_due_ns = h.due_ns


def _poll_held(q: DevRingPtr, now: uint64_t) -> cython.int:
    i: uint32_t
    kept: uint32_t = 0
    n: cython.int = 0
    q.next_due_ns = HELD_FOR_EVER
    for i in range(q.n_held):
        if q.held[i].due_ns <= now:
            push(q, q.held[i].head, q.held[i].written)
            n += 1
        else:
            if q.held[i].due_ns < q.next_due_ns:
                q.next_due_ns = q.held[i].due_ns
            q.held[kept] = q.held[i]
            kept += 1
    q.n_held = kept
    return n


def _finish_late(q: DevRingPtr, now: uint64_t) -> cython.int:
    """Serve what was held and is due, long after the front-end has given it up."""
    i: uint32_t
    kept: uint32_t = 0
    n: cython.int = 0
    q.next_due_ns = HELD_FOR_EVER
    for i in range(q.n_held):
        if q.held[i].due_ns <= now:
            q.serve(q, q.held[i].head, now)
            n += 1
        else:
            q.next_due_ns = _min(q.next_due_ns, q.held[i].due_ns)
            q.held[kept] = q.held[i]
            kept += 1
    q.n_held = kept
    return n


def give_up(q: DevRingPtr) -> None:
    """The front-end broke the ring: serve it no more, and say so."""
    one: uint64_t = 1
    q.broken = 1
    if q.err_fd >= 0:
        write(q.err_fd, address(one), 8)


def poll(s: SourcePtr, now: uint64_t) -> cython.int:
    """Complete what is due, and serve what is there."""
    q: DevRingPtr = cast(DevRingPtr, s)
    n: cython.int = 0
    ret: cython.int
    seen: uint16_t
    count: uint16_t
    if q.broken:
        return 0
    if q.late:
        return _finish_late(q, now) if q.next_due_ns <= now else 0
    if q.next_due_ns <= now:
        n = _poll_held(q, now)
    seen = atomics.load_u16(address(q.avail.idx))  # acquire: the entries before it are complete
    count = seen - q.last_avail
    if count == 0:
        return n
    if count > q.size or q.n_held + count > q.size:
        give_up(q)
        return n
    if count > BATCH:
        count = BATCH
    while count:
        count -= 1
        ret = q.serve(q, atomics.load_u16(address(q.avail.ring[q.last_avail & q.mask])), now)
        if ret < 0:
            give_up(q)
            break
        q.last_avail += 1
        n += 1
        if ret:
            break
    return n


def take(q: DevRingPtr) -> cython.bint:
    """Collect the next chain, if there is one; its head is q.taken. For rings whose buffers wait for the device."""
    count: uint16_t
    if q.broken:
        return False
    count = atomics.load_u16(address(q.avail.idx)) - q.last_avail  # acquire: the entries before it are complete
    if count == 0:
        return False
    q.taken = atomics.load_u16(address(q.avail.ring[q.last_avail & q.mask]))
    if count > q.size or collect(q, q.taken) < 0:
        give_up(q)
        return False
    q.last_avail += 1
    return True


def put(q: DevRingPtr, data: BytePtr, n: uint32_t) -> cython.bint:
    """Write n bytes to the front of into[]; false if there is no room for them all."""
    i: uint32_t
    take: uint32_t
    for i in range(q.n_in):
        take = n if n < q.into[i].iov_len else cast(uint32_t, q.into[i].iov_len)
        memcpy(q.into[i].iov_base, data, take)
        data += take
        n -= take
    return n == 0


def _flush(s: SourcePtr) -> None:
    """Publish what was completed, and interrupt if the driver asked for it (§2.7.7)."""
    q: DevRingPtr = cast(DevRingPtr, s)
    one: uint64_t = 1
    old: uint16_t = q.published
    event: uint16_t
    atomics.store_u16(address(q.used.idx), q.used_idx)  # release: the entries are complete before the index
    q.published = q.used_idx
    atomics.fence()  # the index is visible before the driver's wish is read; the driver does it the other way round
    if q.event_idx:
        event = atomics.load_u16(q.used_event)
        if cast(uint16_t, q.used_idx - event - 1) >= cast(uint16_t, q.used_idx - old):
            return
    elif atomics.load_u16(address(q.avail.flags)) & AvailFlag.NO_INTERRUPT:
        return
    if q.call_fd >= 0:
        write(q.call_fd, address(one), 8)
        q.interrupts += 1


def arm(s: SourcePtr) -> cython.bint:
    q: DevRingPtr = cast(DevRingPtr, s)
    if q.broken:
        return False
    if q.next_due_ns != HELD_FOR_EVER:
        return True
    if q.event_idx:
        atomics.store_u16(q.avail_event, q.last_avail)
    else:
        atomics.store_u16(address(q.used.flags), 0)
    atomics.fence()  # the wish is visible before the index is read
    return atomics.load_u16(address(q.avail.idx)) != q.last_avail


def _disarm(s: SourcePtr) -> None:
    q: DevRingPtr = cast(DevRingPtr, s)
    if q.event_idx:
        atomics.store_u16(q.avail_event, q.last_avail - 1)  # kicks again only after 65535 more entries
    else:
        atomics.store_u16(address(q.used.flags), UsedFlag.NO_NOTIFY)


def _cmd_start(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevRingPtr = cast(DevRingPtr, c.ctx)
    _disarm(address(q.source))
    return rounds.add_source(p, address(q.source))


def _cmd_stop(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevRingPtr = cast(DevRingPtr, c.ctx)
    if q.source.dirty:
        q.source.dirty = 0
        _flush(address(q.source))
    rounds.remove_source(p, address(q.source))
    return q.last_avail


def _cmd_be_late(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Take no more, and finish what is held at random within arg (ns), when the front-end expects it no more. Returns
    how many requests that are."""
    q: DevRingPtr = cast(DevRingPtr, c.ctx)
    random: uint64_t = p.now | 1
    i: uint32_t
    q.late = q.n_held != 0
    for i in range(q.n_held):
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        q.held[i].due_ns = p.now + random % cast(uint64_t, c.arg)
        q.next_due_ns = _min(q.next_due_ns, q.held[i].due_ns)
    return q.n_held


# ---- control plane


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
            self.table.regions[i].local = cast(CharPtr, cast(uint64_t, local))
        atomics.store_u32(address(self.table.n), len(regions))  # release: the new regions are complete


class DeviceRing:
    """A ring that is served from start() to stop(). A device's own class sets serve and device before start().

    keep: what device points to.
    """

    q: DevRingPtr
    poller: Poller
    keep: object

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, keep: object) -> None:
        size: uint16_t = setup.size
        self.poller = poller
        self.keep = (memory, keep)
        self.q = cast(DevRingPtr, calloc(1, sizeof(DevRing)))
        if self.q == NULL:
            raise MemoryError
        self.q.held = cast(HeldPtr, calloc(size, sizeof(Held)))
        if self.q.held == NULL:
            raise MemoryError
        self.q.next_due_ns = HELD_FOR_EVER
        self.q.table = address(memory.table)
        self.q.size = size
        self.q.mask = size - 1
        self.q.desc = cast(DescPtr, cast(uint64_t, setup.desc))
        self.q.avail = cast(AvailPtr, cast(uint64_t, setup.avail))
        self.q.used_event = address(self.q.avail.ring[size])
        self.q.used = cast(UsedPtr, cast(uint64_t, setup.used))
        self.q.avail_event = cast(U16Ptr, address(self.q.used.ring[size]))
        self.q.last_avail = setup.base
        self.q.used_idx = atomics.load_u16(address(self.q.used.idx))
        self.q.published = self.q.used_idx
        self.q.event_idx = setup.event_idx
        self.q.call_fd = setup.call_fd
        self.q.err_fd = setup.err_fd
        self.q.source.fd = setup.kick_fd
        self.q.source.poll = poll
        self.q.source.flush = _flush
        self.q.source.arm = arm
        self.q.source.disarm = _disarm
        memcpy(self.q.source.name, cast(CharPtr, b"target_queue\0"), 13)

    def _command(self, start: cython.bint) -> asyncio.Future[int]:
        return self.poller.command(_cmd_start if start else _cmd_stop, self.q, 0, 0, NULL, self)

    async def start(self) -> None:
        """Serve the ring."""
        ret: int = await self._command(True)
        if ret:
            raise OSError(-ret, "poll a target queue")
        self.poller.own(address(self.q.source), self)

    async def stop(self) -> int:
        """Serve it no more; returns the next avail index. Requests that are held back are forgotten."""
        base: int = await self._command(False)
        self.poller.disown(address(self.q.source))
        return base

    def _be_late(self, within_ns: int64_t) -> asyncio.Future[int]:
        return self.poller.command(_cmd_be_late, self.q, within_ns, 0, NULL, self)

    async def be_late(self, within_ms: int) -> bool:
        """Take no more requests, and finish those that are held at random within that time; false if there are none.
        Its memory and descriptors must stay until then."""
        n: int = await self._be_late(within_ms * 1_000_000)
        return n > 0

    def counters(self) -> dict[str, int]:
        return {"requests": self.q.requests, "interrupts": self.q.interrupts, "broken": self.q.broken}

    def __dealloc__(self) -> None:
        if self.q != NULL:
            free(self.q.held)
            free(self.q)
