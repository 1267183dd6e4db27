"""Judges what reads found: is there an order of all writes and reads of a block that explains it?

Every block that is written carries a stamp: the number of that write of that block. A block is a register (it holds
what was written last) if its operations can be put in an order in which each read finds the write before it, and each
operation lies between its start and its end. Stamps are unique, so this can be decided (Gibbons and Korach, "Testing
shared memories", 1997): a write and the reads that saw it take the time from the first of their ends to the last of
their starts; no two of such times may overlap, and no write with its reads may lie within the time of another.

A device may be lost. A session is the time between two losses. What was in flight may be done again, and so may what
was acknowledged and not flushed, in an order that concurrent writes need not have had before. So the test is made for
each session by itself. Over all sessions holds that a read finds nothing that was overwritten: by a write that began
when the one found had ended, and was acknowledged, or found in this session.

Where nothing is kept (`unkept`) acknowledged writes may be gone after a death. Then the next flush of each user must
fail, and what the medium had left is where all begins again.

Blocks of zeroes carry no stamp. So what zeroes or discards has its blocks to itself while it runs (exclusive blocks),
and what they may hold afterwards is a short list.
"""

from __future__ import annotations

import bisect
import itertools

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, realloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.tests.sim import core
from cython.cimports.tests.sim.core import Finding
from cython.cimports.tests.sim.history import (
    BLOCK,
    MAX_CANDIDATES,
    NOT_YET,
    ZERO_STAMP,
    Exclusive,
    ExclusivePtr,
    Floor,
    FloorPtr,
    History,
    HistoryPtr,
    Write,
    WritePtr,
    Zone,
    ZonePtr,
)
from cython.cimports.virtiod.core.types import CharPtr, U64Ptr

WORDS = cython.declare(uint64_t, BLOCK // 8)
SPREAD = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
NO_STAMP = cython.declare(uint64_t, NOT_YET)


def stamp(at: CharPtr, value: uint64_t) -> None:
    """Fill a block: each word says which it is, too."""
    i: uint64_t
    word: U64Ptr = cast(U64Ptr, at)
    if value == ZERO_STAMP:
        memset(at, 0, BLOCK)
        return
    for i in range(WORDS):
        word[i] = value ^ (i * SPREAD)


def stamp_of(at: CharPtr) -> uint64_t:
    """What the block carries; NOT_YET if it is no block that was ever written."""
    i: uint64_t
    word: U64Ptr = cast(U64Ptr, at)
    value: uint64_t = word[0]
    mix: uint64_t = 0 if value == ZERO_STAMP else SPREAD
    for i in range(WORDS):
        if word[i] != value ^ (i * mix):
            return NO_STAMP
    return value


def begin(h: HistoryPtr, block: uint32_t) -> uint64_t:
    w: WritePtr
    if h.n == h.room:
        return 0
    w = address(h.writes[h.n])
    w.start = h.sim.events
    w.end = NOT_YET
    w.first_end = NOT_YET
    w.last_start = w.start
    w.block = block
    w.session = h.session
    w.began_in = h.session
    w.failed = 0
    h.n += 1
    return h.n - 1


def end(h: HistoryPtr, which: uint64_t, succeeded: cython.bint) -> None:
    w: WritePtr = address(h.writes[which])
    _touch(h, w)
    if not succeeded:
        w.failed = 1
        return
    w.end = h.sim.events
    if w.end < w.first_end:
        w.first_end = w.end
    if h.unkept and w.began_in != h.session:
        return  # it may have been done, and lost, before the answer was seen
    if w.start > h.settled[w.block]:
        h.settled[w.block] = w.start
    if w.start > h.acked[w.block]:
        h.acked[w.block] = w.start


def _touch(h: HistoryPtr, w: WritePtr) -> None:
    """What w has of an earlier session is complete."""
    if w.session != h.session:
        _set_aside(h, w)
        w.session = h.session
        w.first_end = NOT_YET
        w.last_start = h.since


def _set_aside(h: HistoryPtr, w: WritePtr) -> None:
    z: ZonePtr
    if w.first_end == NOT_YET:
        return
    if h.n_zones == h.zone_room:
        h.zone_room = 2 * h.zone_room + 1024
        h.zones = cast(ZonePtr, realloc(h.zones, h.zone_room * sizeof(Zone)))
    z = address(h.zones[h.n_zones])
    z.first_end = w.first_end
    z.last_start = w.last_start
    z.stamp = cast(uint64_t, w - h.writes)
    z.block = w.block
    h.n_zones += 1


def _surely_by(h: HistoryPtr, w: WritePtr) -> uint64_t:
    """From when on it takes effect no more."""
    return w.end if w.failed or w.began_in != h.session else w.first_end


def floor_of(h: HistoryPtr, block: uint32_t) -> Floor:
    floor: Floor
    floor.settled = h.settled[block]
    floor.acked = h.acked[block]
    return floor


def saw(h: HistoryPtr, block: uint32_t, at: CharPtr, start: uint64_t, floor: FloorPtr) -> None:
    i: uint32_t
    e: ExclusivePtr
    w: WritePtr
    least: uint64_t = floor.settled
    value: uint64_t = stamp_of(at)
    if value == NO_STAMP:
        core.found(h.sim, Finding.TORN, block, 0, 0)
        return
    if block >= h.shared:
        e = address(h.exclusive[block - h.shared])
        for i in range(e.n if e.n < MAX_CANDIDATES else MAX_CANDIDATES):
            if e.candidates[i] == value:
                return
        if e.n <= MAX_CANDIDATES:
            core.found(h.sim, Finding.EXCLUSIVE, block, value, e.candidates[0])
        return
    if value == ZERO_STAMP or value >= h.n or h.writes[value].block != block:
        core.found(h.sim, Finding.STRAY, block, value, 0)
        return
    w = address(h.writes[value])
    if start < h.since:  # the answer may be of the session before
        if h.goes_back:
            least = 0 if h.unkept else floor.acked
        if _surely_by(h, w) < least:
            core.found(h.sim, Finding.STALE, block, value, least)
        return
    if _surely_by(h, w) < least:
        core.found(h.sim, Finding.STALE, block, value, least)
    if w.start > h.settled[block]:
        h.settled[block] = w.start
    if w.began_in != h.session and w.end > h.since and start <= w.end:
        return  # it may have been done before the loss, and is done again
    _touch(h, w)
    if h.sim.events < w.first_end:
        w.first_end = h.sim.events
    if start > w.last_start:
        w.last_start = start


def lost(h: HistoryPtr) -> None:
    h.session += 1
    h.sim.events += 1
    h.since = h.sim.events
    if h.goes_back:  # what a read found may be gone until it is written again
        memcpy(h.settled, h.acked, h.blocks * sizeof(uint64_t))


def survived(h: HistoryPtr, block: uint32_t, at: CharPtr) -> None:
    w: WritePtr
    value: uint64_t = stamp_of(at)
    if value == NO_STAMP:
        core.found(h.sim, Finding.TORN, block, 1, 0)
    elif value >= h.n or (value != ZERO_STAMP and h.writes[value].block != block):
        core.found(h.sim, Finding.STRAY, block, value, 1)
    elif value != ZERO_STAMP:
        w = address(h.writes[value])
        if not w.failed and w.end < h.stable[block]:
            core.found(h.sim, Finding.UNSTABLE, block, value, h.stable[block])
        if h.unkept:
            _forget_acknowledged(h, block, w)
    if h.unkept and block >= h.shared:
        anything(h, block)


def write_off(h: HistoryPtr) -> None:
    i: uint32_t
    memcpy(h.acked, h.stable, h.blocks * sizeof(uint64_t))
    memcpy(h.settled, h.stable, h.blocks * sizeof(uint64_t))
    for i in range(h.shared, h.blocks):
        anything(h, i)


def _forget_acknowledged(h: HistoryPtr, block: uint32_t, left: WritePtr) -> None:
    """Writes that began after the one that is left are gone, and their users are to hear of it."""
    if block < h.shared and left.end < h.acked[block]:
        h.lost += 1
    if left.start < h.acked[block]:
        h.acked[block] = left.start
        h.settled[block] = left.start


# ---- blocks that one operation has for itself ----------------------------------------------------


def reserve(h: HistoryPtr, block: uint32_t, n: uint32_t, to_write: cython.bint) -> cython.bint:
    """Take n exclusive blocks, if nobody has one of them; reads may share them."""
    i: uint32_t
    e: ExclusivePtr
    for i in range(n):
        e = address(h.exclusive[block + i - h.shared])
        if e.writer or (to_write and e.readers):
            return False
    for i in range(n):
        e = address(h.exclusive[block + i - h.shared])
        if to_write:
            e.writer = 1
        else:
            e.readers += 1
    return True


def give_back(h: HistoryPtr, block: uint32_t, n: uint32_t, to_write: cython.bint) -> None:
    i: uint32_t
    e: ExclusivePtr
    for i in range(n):
        e = address(h.exclusive[block + i - h.shared])
        if to_write:
            e.writer = 0
        else:
            e.readers -= 1


def only(h: HistoryPtr, block: uint32_t, value: uint64_t) -> None:
    e: ExclusivePtr = address(h.exclusive[block - h.shared])
    if e.late:
        return
    e.candidates[0] = value
    e.n = 1


def maybe(h: HistoryPtr, block: uint32_t, value: uint64_t) -> None:
    e: ExclusivePtr = address(h.exclusive[block - h.shared])
    if e.n < MAX_CANDIDATES:
        e.candidates[e.n] = value
    if e.n <= MAX_CANDIDATES:
        e.n += 1


def failed(h: HistoryPtr, block: uint32_t) -> None:
    """A write to it did, and may be done later, where a device lives on."""
    if h.lingers:
        h.exclusive[block - h.shared].late = 1
        anything(h, block)


def anything(h: HistoryPtr, block: uint32_t) -> None:
    h.exclusive[block - h.shared].n = MAX_CANDIDATES + 1


# ---- the whole -----------------------------------------------------------------------------------


class Blocks:
    """The history of a disk. room: for how many writes of a block. goes_back, unkept, lingers: see history.pxd."""

    h: History

    def __init__(self, blocks: int, shared: int, room: int, goes_back: bool, unkept: bool, lingers: bool) -> None:
        self.h.lingers = lingers
        self.h.goes_back = goes_back
        self.h.unkept = unkept
        self.h.blocks = blocks
        self.h.shared = shared
        self.h.room = room + blocks + 1
        self.h.writes = cast(WritePtr, calloc(self.h.room, sizeof(Write)))
        self.h.settled = cast(U64Ptr, calloc(3 * blocks, sizeof(uint64_t)))
        self.h.exclusive = cast(ExclusivePtr, calloc(blocks - shared + 1, sizeof(Exclusive)))
        if self.h.writes == NULL or self.h.settled == NULL or self.h.exclusive == NULL:
            raise MemoryError
        self.h.acked = self.h.settled + self.h.blocks
        self.h.stable = self.h.acked + self.h.blocks
        self.h.n = 1  # 0 is the stamp of zeroes

    def disorder(self) -> str:
        """Why a block is no register, "" if all are: the test of the whole history."""
        i: uint64_t
        z: ZonePtr
        forward: list[list[tuple[int, int, int]]] = [[] for _ in range(self.h.shared)]
        backward: list[list[tuple[int, int, int]]] = [[] for _ in range(self.h.shared)]
        for i in range(1, self.h.n):
            _set_aside(address(self.h), address(self.h.writes[i]))
        for i in range(self.h.n_zones):
            z = address(self.h.zones[i])
            if z.block >= self.h.shared:
                continue
            if z.first_end < z.last_start:
                forward[z.block].append((z.first_end, z.last_start, z.stamp))
            else:
                backward[z.block].append((z.last_start, z.first_end, z.stamp))
        for block in range(self.h.shared):
            why = overlap(sorted(forward[block]), backward[block])
            if why:
                return f"block {block}: {why}"
        return ""

    def __dealloc__(self) -> None:
        free(self.h.writes)
        free(self.h.zones)
        free(self.h.settled)
        free(self.h.exclusive)


def overlap(forward: list[tuple[int, int, int]], backward: list[tuple[int, int, int]]) -> str:
    """Which times (from, to, stamp) can't be put in an order, "" if all can. forward is sorted."""
    for one, other in itertools.pairwise(forward):
        if other[0] < one[1]:
            return f"writes {one[2]} and {other[2]} were both found after the other had been"
    starts = [one[0] for one in forward]
    for start, end, which in backward:
        at = bisect.bisect_left(starts, start) - 1
        if at >= 0 and end < forward[at][1]:
            return f"write {which} is missing: {forward[at][2]} was found before its start and after its end"
    return ""
