"""What a modelled device keeps: a cache and a medium, and how requests change them, sector by sector.

A device that was let go of while it had requests may be alive (`lingers`): it still does them, later, with the memory
that they named. Nothing else may use that memory until it has died.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.tests.sim import core
from cython.cimports.tests.sim.device import MAX_LATE, NEVER, SECTOR, Flaw, JobPtr, JobState, ModelPtr
from cython.cimports.virtiod.core.types import CharPtr, VoidPtr
from cython.cimports.virtiod.virtio.blk import ID_BYTES, RequestType, Status

LATE_NS = cython.declare(uint64_t, 4_000_000_000)


def _copy(j: JobPtr, offset: uint64_t, sector: CharPtr, to_guest: cython.bint) -> None:
    """One sector between the device and where it lies in the request's data."""
    i: uint32_t = 0
    left: uint64_t = SECTOR
    n: uint64_t
    while offset >= j.data[i].len:
        offset -= j.data[i].len
        i += 1
    while left:
        n = j.data[i].len - offset
        if n > left:
            n = left
        if to_guest:
            memcpy(cast(VoidPtr, j.data[i].addr + offset), sector, n)
        else:
            memcpy(sector, cast(VoidPtr, j.data[i].addr + offset), n)
        sector += n
        left -= n
        offset = 0
        i += 1


def put(d: ModelPtr, sector: uint64_t, data: CharPtr) -> None:
    """The sector's new contents; NULL: zeroes."""
    at: CharPtr = d.current + sector * SECTOR
    if d.before != NULL:
        memcpy(d.before + sector * SECTOR, at, SECTOR)
    if data == NULL:
        memset(at, 0, SECTOR)
    else:
        memcpy(at, data, SECTOR)
    d.dirty[sector] = 1
    if not d.write_back:
        _settle(d, sector)


def _settle(d: ModelPtr, sector: uint64_t) -> None:
    if d.dirty[sector]:
        memcpy(d.stable + sector * SECTOR, d.current + sector * SECTOR, SECTOR)
        d.dirty[sector] = 0


def _flush(d: ModelPtr) -> None:
    i: uint32_t
    if d.flaw == Flaw.LOSES_FLUSH:
        return
    for i in range(d.sectors):
        _settle(d, i)


def _move(d: ModelPtr, j: JobPtr, i: uint32_t) -> None:
    """Execute one sector of a request."""
    data: cython.char[SECTOR]
    at: uint64_t = j.sector + i
    if j.type == RequestType.IN:
        if d.flaw == Flaw.OLD_READ and core.chance(d.sim, 2):
            _copy(j, cast(uint64_t, i) * SECTOR, d.before + at * SECTOR, True)
        else:
            _copy(j, cast(uint64_t, i) * SECTOR, d.current + at * SECTOR, True)
    elif j.type == RequestType.OUT:
        if d.flaw == Flaw.LOSES_WRITE and core.chance(d.sim, 2):
            return
        if d.flaw == Flaw.WRONG_SECTOR and at + 1 < d.sectors and core.chance(d.sim, 1):
            at += 1
        _copy(j, cast(uint64_t, i) * SECTOR, data, False)
        put(d, at, data)
        if d.flaw == Flaw.LATE_WRITE and not d.late_at and core.chance(d.sim, 10):
            d.late_at = d.sim.now + 20 * d.delay_ns + core.below(d.sim, 200 * d.delay_ns)
            d.late_sector = at
            memcpy(d.late_data, data, SECTOR)
    elif j.type == RequestType.WRITE_ZEROES or core.chance(d.sim, 500):  # a discard promises nothing
        put(d, at, NULL)


def execute(d: ModelPtr, j: JobPtr) -> None:
    """Do some of a request."""
    n: uint64_t
    if j.done == 0 and d.errors and j.type != RequestType.GET_ID and core.chance(d.sim, d.errors):
        j.status = Status.IOERR
    if j.status != Status.OK or (d.flaw == Flaw.ANSWERS_EARLY and j.type == RequestType.IN and core.chance(d.sim, 2)):
        j.sectors = j.done  # it does no more of it
    if j.sectors > j.done:
        n = 1 + core.below(d.sim, j.sectors - j.done)
        while n:
            _move(d, j, j.done)
            j.done += 1
            n -= 1
        if j.done < j.sectors:
            return
    elif j.type == RequestType.FLUSH:
        _flush(d)
    elif j.type == RequestType.GET_ID:
        memcpy(cast(VoidPtr, j.data[0].addr), d.serial, ID_BYTES)
    j.state = JobState.DONE


def die(d: ModelPtr, kept_of_1000: uint64_t) -> None:
    """The device's end: of what was not flushed some is kept, by chance."""
    i: uint32_t
    forget_late(d)
    for i in range(d.sectors):
        if d.dirty[i] and core.chance(d.sim, kept_of_1000):
            _settle(d, i)
        d.dirty[i] = 0
    memcpy(d.current, d.stable, cast(uint64_t, d.sectors) * SECTOR)


# ---- of a device that may still be alive ----------------------------------------------------------


def linger(d: ModelPtr, j: JobPtr) -> None:
    i: uint32_t
    if not d.lingers or j.state != JobState.DOING or (j.type != RequestType.IN and j.type != RequestType.OUT):
        return
    for i in range(cast(uint32_t, MAX_LATE)):
        if d.late[i].state == JobState.FREE:
            d.late[i] = j[0]
            d.late[i].due = d.sim.now + core.below(d.sim, LATE_NS)
            d.n_late += 1
            return


def forget_late(d: ModelPtr) -> None:
    memset(d.late, 0, sizeof(d.late))
    d.n_late = 0


def used_by_late(d: ModelPtr, j: JobPtr) -> cython.bint:
    i: uint32_t
    for i in range(cast(uint32_t, MAX_LATE) if d.n_late else 0):
        if d.late[i].state != JobState.FREE and not _is_same(address(d.late[i]), j) and _share(address(d.late[i]), j):
            return True
    return False


def _is_same(late: JobPtr, j: JobPtr) -> cython.bint:
    """Whether it may be a part of the same I/O, which begins again."""
    return late.type == j.type and late.sector < j.sector + j.sectors and j.sector < late.sector + late.sectors


def _share(late: JobPtr, j: JobPtr) -> cython.bint:
    i: uint32_t
    n: uint32_t
    for i in range(late.n_data):
        for n in range(j.n_data):
            start: uint64_t = max(late.data[i].addr, j.data[n].addr)
            end: uint64_t = min(late.data[i].addr + late.data[i].len, j.data[n].addr + j.data[n].len)
            if start < end and not _are_zeroes_for_both(late, j, start, end):
                return True
    return False


def _are_zeroes_for_both(late: JobPtr, j: JobPtr, start: uint64_t, end: uint64_t) -> cython.bint:
    """All requests that write zeroes have them from the same memory, which nobody changes; no user's block is zero."""
    at: CharPtr = cast(CharPtr, start)
    i: uint64_t
    if late.type != RequestType.OUT or j.type != RequestType.OUT:
        return False
    for i in range(end - start):
        if at[i]:
            return False
    return True


def late_due(d: ModelPtr) -> uint64_t:
    i: uint32_t
    at: uint64_t = NEVER
    for i in range(cast(uint32_t, MAX_LATE) if d.n_late else 0):
        if d.late[i].state != JobState.FREE and d.late[i].due < at:
            at = d.late[i].due
    return at


def do_late(d: ModelPtr) -> cython.bint:
    i: uint32_t
    j: JobPtr
    if late_due(d) > d.sim.now:
        return False
    for i in range(cast(uint32_t, MAX_LATE)):
        j = address(d.late[i])
        if j.state != JobState.FREE and j.due <= d.sim.now:
            while j.done < j.sectors:
                _move(d, j, j.done)
                j.done += 1
            j.state = JobState.FREE
            d.n_late -= 1
    return True
