"""The calls of the C library that Python has no names for, and mmap at a chosen address."""

from __future__ import annotations

import ctypes
import os

PROT_NONE = 0
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MADV_HUGEPAGE = 14

_PUNCH_HOLE = 0x1 | 0x2  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
_libc.inotify_rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


def mmap(address: int | None, size: int, protection: int, flags: int, fd: int, offset: int = 0) -> int:
    """Maps size bytes of a file, at address if it is given; returns where they are. Raises OSError."""
    found = _libc.mmap(address, size, protection, flags, fd, offset)
    if found in {None, _MAP_FAILED}:
        raise _error()
    return int(found)


def munmap(address: int, size: int) -> None:
    """Unmaps what mmap() mapped."""
    _libc.munmap(address, size)


def madvise(address: int, size: int, advice: int) -> None:
    """Tells the kernel how memory will be used; it may ignore this."""
    _libc.madvise(address, size, advice)


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Gives the pages of a part of a file back; it reads as zeroes then. Raises OSError."""
    if _libc.fallocate(fd, _PUNCH_HOLE, offset, size):
        raise _error()


def mlock(address: int, size: int) -> None:
    """Keeps memory from being swapped out. Raises OSError."""
    if _libc.mlock(address, size):
        raise _error()


def inotify_init() -> int:
    """A file descriptor of inotify(7), non-blocking. Raises OSError."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise _error()
    return fd


def inotify_add_watch(fd: int, path: str, events: int) -> int:
    """Watches a path; the watch's number, the same for the same inode. Raises OSError."""
    watch: int = _libc.inotify_add_watch(fd, os.fsencode(path), events)
    if watch < 0:
        raise _error()
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Ends a watch; one that has ended by itself is no error."""
    _libc.inotify_rm_watch(fd, watch)


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
