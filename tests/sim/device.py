"""A virtio-blk device, as its driver sees it (virtio 1.2 §2.7, §5.2.6): it walks the real rings in the real memory.

It does what the specification allows and what no driver may rely on: requests are executed sector by sector, side by
side, in any order, and answered in any order; a used entry is written and shown at different times; with a volatile
cache what was not flushed may or may not be there after it died. It is watched by nobody: what is checked here is
what the driver wrote.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.unistd import read, write
from cython.cimports.tests.sim import core, medium
from cython.cimports.tests.sim.core import Finding
from cython.cimports.tests.sim.device import (
    MAX_CHAIN,
    MAX_QUEUES,
    SECTOR,
    Flaw,
    Job,
    JobPtr,
    JobState,
    Lie,
    ModelPtr,
    RingPtr,
    RingState,
)
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, VoidPtr
from cython.cimports.virtiod.virtio.blk import BlkHeader, BlkRange, RequestType
from cython.cimports.virtiod.virtqueue.layout import (
    AvailFlag,
    DescFlag,
    DescPtr,
    Seg,
    SegPtr,
    UsedElemPtr,
    UsedFlag,
    VringDesc,
)

# ---- taking requests -----------------------------------------------------------------------------


def _known(d: ModelPtr, at: uint64_t, n: uint64_t) -> cython.bint:
    return d.known_from <= at and at + n <= d.known_to


def _bad_chain(r: RingPtr, j: JobPtr, why: uint64_t) -> None:
    j.state = JobState.FREE
    r.n_jobs -= 1
    core.found(r.device.sim, Finding.CHAIN, r.index, j.head, why)


def _take(r: RingPtr) -> cython.int:
    """Take the next request, if there is one."""
    i: uint32_t
    j: JobPtr = NULL
    head: uint16_t
    if atomics.load_u16(address(r.avail.idx)) == r.last_avail:  # acquire: the entries before it are complete
        return 0
    head = r.avail.ring[r.last_avail & r.mask]
    for i in range(r.size):
        if r.jobs[i].state == JobState.FREE:
            j = address(r.jobs[i])
        elif r.jobs[i].head == head:
            core.found(r.device.sim, Finding.CHAIN, r.index, head, 1)
            return 0
    if j == NULL or head >= r.size:
        core.found(r.device.sim, Finding.CHAIN, r.index, head, 2)
        return 0
    r.last_avail += 1
    r.n_jobs += 1
    memset(j, 0, sizeof(Job) - sizeof(j.data))
    j.state = JobState.DOING
    j.head = head
    r.device.requests += 1
    _parse(r, j)
    j.due = r.device.sim.now + core.below(r.device.sim, 2 * r.device.delay_ns)
    return 1


def _collect(r: RingPtr, j: JobPtr, segs: SegPtr, into: BytePtr) -> cython.int:
    """The segments of the chain at j.head, and which of them are for the device to write; their number, or 0."""
    table: DescPtr = r.desc
    size: uint32_t = r.size
    at: uint32_t = j.head
    n: cython.int = 0
    d: VringDesc = table[at]
    if d.flags & DescFlag.INDIRECT:
        if (
            not r.indirect
            or not _known(r.device, d.addr, d.len)
            or d.flags != DescFlag.INDIRECT
            or d.len % sizeof(VringDesc)
        ):
            return 0
        table = cast(DescPtr, d.addr)
        size = d.len // sizeof(VringDesc)
        at = 0
    while n < MAX_CHAIN:
        if at >= size:
            return 0
        d = table[at]
        if d.flags & DescFlag.INDIRECT or d.len == 0:
            return 0
        if not _known(r.device, d.addr, d.len):
            core.found(r.device.sim, Finding.MEMORY, r.index, d.addr - r.device.known_from, d.len)
            return 0
        segs[n].addr = d.addr
        segs[n].len = d.len
        into[n] = 1 if d.flags & DescFlag.WRITE else 0
        n += 1
        if not d.flags & DescFlag.NEXT:
            return n
        at = d.next
    return 0


def _shape(r: RingPtr, j: JobPtr, segs: SegPtr, into: BytePtr, n: cython.int) -> cython.bint:
    """Whether the chain is header, data, status, each for the side that it must be for."""
    i: cython.int
    reads: cython.bint = j.type == RequestType.IN or j.type == RequestType.GET_ID
    if segs[n - 1].len != 1 or not into[n - 1]:
        return False
    for i in range(1, n - 1):
        if into[i] != reads:
            return False
        j.data[j.n_data] = segs[i]
        j.n_data += 1
        if segs[i].len > r.device.size_max:
            return False
    return j.n_data <= r.device.seg_max


def _parse(r: RingPtr, j: JobPtr) -> None:
    segs: Seg[MAX_CHAIN]
    into: uint8_t[MAX_CHAIN]
    header: BlkHeader
    what: BlkRange
    i: uint32_t
    total: uint64_t = 0
    n: cython.int = _collect(r, j, segs, into)
    if n < 2 or segs[0].len != sizeof(BlkHeader) or into[0]:
        _bad_chain(r, j, 3)
        return
    memcpy(address(header), cast(VoidPtr, segs[0].addr), sizeof(BlkHeader))
    j.type = header.type
    j.sector = header.sector
    j.status_at = cast(CharPtr, segs[n - 1].addr)
    if not _shape(r, j, segs, into, n):
        _bad_chain(r, j, 4)
        return
    for i in range(j.n_data):
        total += j.data[i].len
    if j.type == RequestType.IN or j.type == RequestType.OUT:
        j.sectors = cast(uint32_t, total // SECTOR)
        if total == 0 or total % SECTOR:
            _bad_chain(r, j, 5)
            return
    elif j.type == RequestType.DISCARD or j.type == RequestType.WRITE_ZEROES:
        if j.n_data != 1 or total != sizeof(BlkRange):
            _bad_chain(r, j, 6)
            return
        memcpy(address(what), cast(VoidPtr, j.data[0].addr), sizeof(BlkRange))
        j.sector = what.sector
        j.sectors = what.sectors
    if r.device.foreign and j.type != RequestType.GET_ID:
        core.found(r.device.sim, Finding.FOREIGN, j.type, 0, 0)
    if medium.used_by_late(r.device, j):
        core.found(r.device.sim, Finding.REUSED, r.index, j.data[0].addr - r.device.known_from, 0)
    if j.sector > r.device.sectors or j.sectors > r.device.sectors - j.sector:
        core.found(r.device.sim, Finding.RANGE, r.index, j.sector, j.sectors)
        j.sectors = 0


# ---- answering them ----------------------------------------------------------------------------


def _answer(r: RingPtr, j: JobPtr) -> None:
    """Write the status and the used entry, which is shown later."""
    i: uint32_t
    written: uint32_t = 1
    elem: UsedElemPtr = address(r.used.ring[r.used_idx & r.mask])
    j.state = JobState.FREE
    r.n_jobs -= 1
    if r.device.flaw == Flaw.DROPS and core.chance(r.device.sim, 2):
        return
    if j.type == RequestType.IN or j.type == RequestType.GET_ID:
        for i in range(j.n_data):
            written += j.data[i].len
    j.status_at[0] = cast(cython.char, j.status)
    elem.id = j.head
    elem.len = written
    r.used_idx += 1


def _proceed(r: RingPtr) -> cython.int:
    """Go on with one of the requests that are due."""
    i: uint32_t
    j: JobPtr
    d: ModelPtr = r.device
    first: uint64_t
    if r.n_jobs == 0:
        return 0
    first = core.below(d.sim, r.size)
    for i in range(r.size):
        j = address(r.jobs[(first + i) & r.mask])
        if j.state == JobState.FREE or j.due > d.sim.now:
            continue
        if j.state == JobState.DOING:
            medium.execute(d, j)
        else:
            _answer(r, j)
        j.due = d.sim.now + core.below(d.sim, 2 * d.delay_ns)
        return 1
    return 0


# ---- the ring ------------------------------------------------------------------------------------


def _show(r: RingPtr) -> cython.int:
    """Publish what was answered, and interrupt if the driver asked for it (§2.7.7)."""
    one: uint64_t = 1
    old: uint16_t = r.shown
    event: uint16_t
    if r.used_idx == old:
        return 0
    atomics.store_u16(address(r.used.idx), r.used_idx)  # release: the entries are complete before the index
    r.shown = r.used_idx
    atomics.fence()  # the index is visible before the driver's wish is read; the driver does it the other way round
    if r.event_idx:
        event = atomics.load_u16(r.used_event)
        if cast(uint16_t, r.used_idx - event - 1) >= cast(uint16_t, r.used_idx - old):
            return 1
    elif atomics.load_u16(address(r.avail.flags)) & AvailFlag.NO_INTERRUPT:
        return 1
    if r.device.flaw != Flaw.NO_INTERRUPT or core.chance(r.device.sim, 990):
        write(r.call_fd, address(one), 8)
    return 1


def _lie(r: RingPtr) -> None:
    """Write what no device may, once; it is silent from then on."""
    d: ModelPtr = r.device
    elem: UsedElemPtr = address(r.used.ring[r.used_idx & r.mask])
    elem.len = 1
    elem.id = r.size + cast(uint32_t, core.below(d.sim, 1 << 20))
    r.used_idx += 1 if d.lie != Lie.FAR_INDEX else r.size + 1
    _show(r)
    d.lie = Lie.TRUTH
    d.silent = 1


def _kicked(r: RingPtr) -> cython.bint:
    """The ring sleeps: whether it is to wake up. The driver publishes and kicks in one step."""
    count: uint64_t
    if atomics.load_u16(address(r.avail.idx)) == r.slept_at:
        return False
    if read(r.kick_fd, address(count), 8) != 8:
        core.found(r.device.sim, Finding.UNKICKED, r.index, 0, 0)
        return False
    r.asleep = 0
    _ask_for_kicks(r, False)
    return True


def _ask_for_kicks(r: RingPtr, wanted: cython.bint) -> None:
    """§2.7.10."""
    if r.event_idx:
        atomics.store_u16(r.avail_event, r.last_avail if wanted else r.last_avail - 1)
    else:
        atomics.store_u16(address(r.used.flags), 0 if wanted else UsedFlag.NO_NOTIFY)


def _fall_asleep(r: RingPtr) -> cython.bint:
    """Wait for a kick, unless there is a request already."""
    _ask_for_kicks(r, True)
    atomics.fence()  # the wish is visible before the index is read
    r.slept_at = atomics.load_u16(address(r.avail.idx))
    if r.slept_at != r.last_avail:
        _ask_for_kicks(r, False)
        return False
    r.asleep = 1
    return True


def step(r: RingPtr) -> cython.int:
    d: ModelPtr = r.device
    i: cython.int
    did: cython.int = 0
    turn: uint64_t
    if medium.do_late(d):
        return 1
    if r.state != RingState.RUNNING or d.silent:
        return 0
    if d.late_at and d.late_at <= d.sim.now:
        medium.put(d, d.late_sector, d.late_data)
        d.late_at = 0
    if r.asleep and not _kicked(r):
        return 0
    if d.lie and r.used_idx != 0:
        _lie(r)
        return 1
    turn = core.below(d.sim, 3)
    for i in range(3):
        if (turn + i) % 3 == 0:
            did = _take(r)
        elif (turn + i) % 3 == 1:
            did = _proceed(r)
        else:
            did = _show(r)
        if did:
            return 1
    if r.n_jobs == 0:
        return not _fall_asleep(r)
    return 0


def due(r: RingPtr) -> uint64_t:
    i: uint32_t
    at: uint64_t = medium.late_due(r.device)
    if r.state != RingState.RUNNING or r.device.silent or (r.asleep and not _kicked(r)):
        return at
    if r.n_jobs == 0 or r.used_idx != r.shown or atomics.load_u16(address(r.avail.idx)) != r.last_avail:
        return r.device.sim.now
    for i in range(r.size):
        if r.jobs[i].state != JobState.FREE and r.jobs[i].due < at:
            at = r.jobs[i].due
    return at


def forget(d: ModelPtr, goes_on: cython.bint) -> None:
    i: cython.int
    n: uint32_t
    r: RingPtr
    for i in range(cast(cython.int, MAX_QUEUES)):
        r = address(d.rings[i])
        for n in range(r.size if r.state == RingState.RUNNING and goes_on else 0):
            medium.linger(d, address(r.jobs[n]))
        r.state = RingState.OFF
