"""What a target's disk keeps its blocks in: nothing, memory, or a file."""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import EIO
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memchr, memcpy, memset
from cython.cimports.posix.unistd import fdatasync, pread, pwrite
from cython.cimports.virtiod.core import atomics, linux
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, IovPtr
from cython.cimports.virtiod.target.disk import SECTOR_SHIFT, Disk, DiskKind, DiskPtr, SectorState


def read(d: DiskPtr, offset: uint64_t, total: uint64_t, v: IovPtr, n: uint32_t) -> cython.int:
    """Fill the segments, total bytes, from offset on. A null disk reads zeroes: the front-end's buffer may hold
    what another of its users left there."""
    i: uint32_t
    if d.cache != NULL:
        return _cached_read(d, offset, v, n)
    if d.kind == DiskKind.MEMORY:
        for i in range(n):
            memcpy(v[i].iov_base, d.memory + offset, v[i].iov_len)
            offset += v[i].iov_len
    elif d.kind == DiskKind.FILE and linux.preadv(d.fd, v, n, offset) != cast(cython.Py_ssize_t, total):
        return -EIO
    elif d.kind == DiskKind.NOTHING:
        for i in range(n):
            memset(v[i].iov_base, 0, v[i].iov_len)
    return 0


def write(d: DiskPtr, offset: uint64_t, total: uint64_t, v: IovPtr, n: uint32_t) -> cython.int:
    """Keep the segments, total bytes, at offset."""
    i: uint32_t
    at: uint64_t = offset
    if d.cache != NULL:
        for i in range(n):
            memcpy(d.cache + at, v[i].iov_base, v[i].iov_len)
            at += v[i].iov_len
        _note(d, offset, total)
    elif d.kind == DiskKind.MEMORY:
        for i in range(n):
            memcpy(d.memory + offset, v[i].iov_base, v[i].iov_len)
            offset += v[i].iov_len
    elif d.kind == DiskKind.FILE and linux.pwritev(d.fd, v, n, offset) != cast(cython.Py_ssize_t, total):
        return -EIO
    return 0


def zero(d: DiskPtr, offset: uint64_t, length: uint64_t) -> cython.int:
    """Zeroes in the range, without blocks in a file."""
    mode: cython.int = linux.FALLOC_FL_PUNCH_HOLE | linux.FALLOC_FL_KEEP_SIZE
    if d.cache != NULL:
        memset(d.cache + offset, 0, length)
        _note(d, offset, length)
    elif d.kind == DiskKind.MEMORY:
        memset(d.memory + offset, 0, length)
    elif d.kind == DiskKind.FILE and length and linux.fallocate(d.fd, mode, offset, length) < 0:
        return -EIO
    return 0


def flush(d: DiskPtr) -> cython.int:
    """What was written is on stable storage."""
    if d.cache != NULL and _write_back(d) < 0:
        return -EIO
    return -EIO if d.kind == DiskKind.FILE and fdatasync(d.fd) < 0 else 0


# ---- the volatile cache: what other pollers' requests do at the same time is as with any disk ----------------


def _note(d: DiskPtr, offset: uint64_t, length: uint64_t) -> None:
    """The cache has the range now."""
    atomics.fence()
    memset(d.state + (offset >> SECTOR_SHIFT), SectorState.DIRTY, length >> SECTOR_SHIFT)


def _cached_read(d: DiskPtr, offset: uint64_t, v: IovPtr, n: uint32_t) -> cython.int:
    i: uint32_t
    at: uint64_t
    end: uint64_t
    run: uint64_t
    to: CharPtr
    here: cython.bint
    for i in range(n):
        at = offset
        offset += v[i].iov_len
        to = cast(CharPtr, v[i].iov_base)
        while at < offset:
            here = d.state[at >> SECTOR_SHIFT] != SectorState.ABSENT
            end = ((at >> SECTOR_SHIFT) + 1) << SECTOR_SHIFT
            while end < offset and (d.state[end >> SECTOR_SHIFT] != SectorState.ABSENT) == here:
                end += 1 << SECTOR_SHIFT
            run = (offset if offset < end else end) - at
            if here:
                memcpy(to, d.cache + at, run)
            elif pread(d.fd, to, run, at) != cast(cython.Py_ssize_t, run):
                return -EIO
            to += run
            at += run
    return 0


def _write_back(d: DiskPtr) -> cython.int:
    """One at a time: a flush that finds a sector clean must not be over before that sector is in the file."""
    sectors: uint64_t = d.size >> SECTOR_SHIFT
    first: uint64_t
    end: uint64_t = 0
    length: uint64_t
    found: BytePtr
    ret: cython.int = 0
    while atomics.fetch_or_u32(address(d.flushing), 1):
        linux.sched_yield()
    while ret == 0:
        found = cast(BytePtr, memchr(d.state + end, SectorState.DIRTY, sectors - end))
        if found == NULL:
            break
        first = found - d.state
        end = first
        while end < sectors and d.state[end] == SectorState.DIRTY:
            d.state[end] = SectorState.CLEAN  # before it is read: what is written meanwhile makes it dirty again
            end += 1
        atomics.fence()
        length = (end - first) << SECTOR_SHIFT
        if pwrite(d.fd, d.cache + (first << SECTOR_SHIFT), length, first << SECTOR_SHIFT) != cast(
            cython.Py_ssize_t, length
        ):
            memset(d.state + first, SectorState.DIRTY, end - first)
            ret = -EIO
    atomics.fetch_and_u32(address(d.flushing), 0)
    return ret


class TargetDisk:
    """Blocks in nothing (place 0, fd -1), memory at that address, or a file. size in bytes; keep: what owns the
    memory."""

    disk: Disk
    keep: object
    cache: object

    def __init__(self, size: int, place: int = 0, fd: int = -1, read_only: bool = False, keep: object = None) -> None:
        self.keep = keep
        self.disk.size = size
        self.disk.memory = cast(CharPtr, cast(uint64_t, place))
        self.disk.fd = fd
        self.disk.kind = DiskKind.MEMORY if place else DiskKind.FILE if fd >= 0 else DiskKind.NOTHING
        self.disk.read_only = read_only

    def use_cache(self, place: int, keep: object) -> None:
        """Keep what is written in memory until a flush. At place, which keep owns: the disk's size, and a byte for
        each sector, all zero."""
        self.cache = keep
        self.disk.cache = cast(CharPtr, cast(uint64_t, place))
        self.disk.state = cast(BytePtr, self.disk.cache + self.disk.size)

    def write_back(self) -> None:
        """An end in order: what is in the cache goes to the file. Raises OSError."""
        if self.disk.cache != NULL and flush(address(self.disk)) < 0:
            raise OSError(EIO, "the cache could not be written to the file")

    def resize(self, size: int) -> None:
        """Change the size in bytes; memory or file must be there."""
        self.disk.size = size
