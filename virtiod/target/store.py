"""Where a target's disk keeps its data: a file, memory, or nothing; opens, resizes and closes it."""

from __future__ import annotations

import ctypes
import mmap
import os

from virtiod.core.errors import InvalidArgument
from virtiod.target.disk import TargetDisk
from virtiod.virtio.blk import SECTOR


class Store:
    """A disk of size bytes (None: the file's). cache: what is written to the file is in memory only until a flush, or
    until the end in order. close() when nothing uses it any more. Raises InvalidArgument."""

    def __init__(
        self, size: int | None, path: str, memory: bool, block_size: int, read_only: bool, cache: bool = False
    ) -> None:
        self._path = path
        self._block_size = block_size
        self._fd = -1
        self._cached = 0  # bytes that a cache has room for
        self._memory: mmap.mmap | None = None
        address = 0
        if path:
            try:
                self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            except OSError as error:
                raise InvalidArgument(f"open {path}: {error.strerror}", error.errno) from error
            try:
                size = size or self.file_size()
            except BaseException:
                self.close()
                raise
        elif memory:
            self._memory = mmap.mmap(-1, size or 0)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.size = size or 0
        self.disk = TargetDisk(self.size, address, self._fd, read_only, self._memory)
        if cache:
            self._cached = self.size
            room = mmap.mmap(-1, self.size + self.size // SECTOR)
            self.disk.use_cache(ctypes.addressof(ctypes.c_char.from_buffer(room)), room)

    def file_size(self) -> int:
        """The size of the whole blocks that the file has now, in bytes."""
        size = os.fstat(self._fd).st_size // self._block_size * self._block_size
        if size == 0:
            raise InvalidArgument(f"{self._path}: smaller than one block")
        return size

    def resize(self, size: int | None = None) -> None:
        """Changes the size (bytes; None: to the file's). Memory can't grow."""
        size = self.file_size() if size is None else size
        if self._memory is not None and size > len(self._memory):
            raise InvalidArgument(f"size {size}: a memory disk of {len(self._memory)} bytes can't grow")
        if self._cached and size > self._cached:
            raise InvalidArgument(f"size {size}: a disk with a cache, of {self._cached} bytes, can't grow")
        self.size = size
        self.disk.resize(size)

    def close(self) -> None:
        if self._fd >= 0:
            if self._cached:
                self.disk.write_back()
            os.close(self._fd)
            self._fd = -1
