"""What a target's disk keeps its blocks in: nothing, memory, or a file."""

from __future__ import annotations

import cython
from cython import cast
from cython.cimports.libc.errno import EIO
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.unistd import fdatasync
from cython.cimports.virtiod.core import linux
from cython.cimports.virtiod.core.types import CharPtr, IovPtr
from cython.cimports.virtiod.target.disk import Disk, DiskKind, DiskPtr


def read(d: DiskPtr, offset: uint64_t, total: uint64_t, v: IovPtr, n: uint32_t) -> cython.int:
    """Fill the segments, total bytes, from offset on. A null disk reads zeroes: the front-end's buffer may hold
    what another of its users left there."""
    i: uint32_t
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
    if d.kind == DiskKind.MEMORY:
        for i in range(n):
            memcpy(d.memory + offset, v[i].iov_base, v[i].iov_len)
            offset += v[i].iov_len
    elif d.kind == DiskKind.FILE and linux.pwritev(d.fd, v, n, offset) != cast(cython.Py_ssize_t, total):
        return -EIO
    return 0


def zero(d: DiskPtr, offset: uint64_t, length: uint64_t) -> cython.int:
    """Zeroes in the range, without blocks in a file."""
    mode: cython.int = linux.FALLOC_FL_PUNCH_HOLE | linux.FALLOC_FL_KEEP_SIZE
    if d.kind == DiskKind.MEMORY:
        memset(d.memory + offset, 0, length)
    elif d.kind == DiskKind.FILE and length and linux.fallocate(d.fd, mode, offset, length) < 0:
        return -EIO
    return 0


def flush(d: DiskPtr) -> cython.int:
    """What was written is on stable storage."""
    return -EIO if d.kind == DiskKind.FILE and fdatasync(d.fd) < 0 else 0


class TargetDisk:
    """Blocks in nothing (address 0, fd -1), memory, or a file. size in bytes; keep: what address points to."""

    disk: Disk
    keep: object

    def __init__(self, size: int, address: int = 0, fd: int = -1, read_only: bool = False, keep: object = None) -> None:
        self.keep = keep
        self.disk.size = size
        self.disk.memory = cast(CharPtr, cast(uint64_t, address))
        self.disk.fd = fd
        self.disk.kind = DiskKind.MEMORY if address else DiskKind.FILE if fd >= 0 else DiskKind.NOTHING
        self.disk.read_only = read_only

    def resize(self, size: int) -> None:
        """Change the size in bytes; memory or file must be there."""
        self.disk.size = size
