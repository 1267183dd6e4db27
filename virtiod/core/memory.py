"""DMA memory: what devices and targets may read and write.

It is one memfd, mapped at an address that never changes, and sealed: no peer can shrink it, nor keep it from growing by
a seal of its own. It grows by whole regions, each mapped after the last one; users of the memory (transports) are told
of each new region. Its pages are huge pages (1 GB, else 2 MB) when enough are free, and plain ones otherwise, which
peers need not know.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virtiod.core import libc
from virtiod.core.errors import InvalidArgument, NoMemory

log = logging.getLogger(__name__)

MIB = 1 << 20
HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
RESERVED = 256 << 30  # address space kept for growth; costs nothing


@dataclass(frozen=True)
class Translation:
    """How a device addresses DMA memory: at address + delta or, if there is a table, page by page.

    table is the address of an array: for each page of 2**shift bytes from base on, where the device has it (64 bits).
    """

    delta: int = 0
    table: int = 0
    base: int = 0
    shift: int = 0

    def delta_at(self, address: int) -> int:
        """What to add to addresses in the page of this address to get the device's."""
        if not self.table:
            return self.delta
        page = (address - self.base) >> self.shift
        return ctypes.c_uint64.from_address(self.table + 8 * page).value - (self.base + (page << self.shift))


@dataclass(frozen=True)
class Region:
    """A mapped part of the file: address in this process, size and offset in the file, all in bytes."""

    address: int
    size: int
    offset: int


def choose_page_size(size: int, sysfs: Path = HUGE_PAGES) -> int:
    """The largest page size (bytes) of which enough pages are free for size bytes; 4096 if none."""
    for page in (1 << 30, 2 << 20):
        free = sysfs / f"hugepages-{page // 1024}kB" / "free_hugepages"
        try:
            if int(free.read_text()) >= -(-size // page):
                return page
        except (OSError, ValueError):
            continue
    return mmap.PAGESIZE


class DmaMemory:
    """The daemon's DMA memory. Not thread-safe: for the control plane only.

    size is what is mapped at first, in bytes; growth is in regions of the same size or what is asked for.
    """

    def __init__(self, size: int, page_size: int | None = None) -> None:
        if size <= 0:
            raise InvalidArgument(f"DMA memory of {size} bytes")
        self.page_size = page_size or choose_page_size(size)
        self.regions: list[Region] = []
        self._step = self._round(size)
        self._listeners: list[Callable[[Region], None]] = []
        self._free: list[tuple[int, int]] = []  # (address, size), sorted, never adjacent
        self._seams: set[int] = set()  # where regions begin: peers map each by itself, so nothing spans two
        self._used: dict[int, int] = {}
        self._touched = 0  # memory from here on was never handed out: it is zero, and costs no page until used
        self.fd = self._create_file()
        self._reserved = 0
        try:
            # One page more than is used: huge pages can be mapped at multiples of their size only.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_NORESERVE
            self._reserved = libc.mmap(None, RESERVED + self.page_size, libc.PROT_NONE, flags, -1)
            self._base = self._round(self._reserved)
            self._grow(self._step)
        except BaseException:
            self.close()
            raise

    def _create_file(self) -> int:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if self.page_size > mmap.PAGESIZE:
            flags |= os.MFD_HUGETLB | (self.page_size.bit_length() - 1) << os.MFD_HUGE_SHIFT
        fd = os.memfd_create("virtiod", flags)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return fd

    def _round(self, size: int) -> int:
        return -(-size // self.page_size) * self.page_size

    @property
    def base(self) -> int:
        """The address of the first region; each further one follows the one before."""
        return self._base

    @property
    def size(self) -> int:
        """How many bytes are mapped."""
        return sum(r.size for r in self.regions)

    @property
    def used(self) -> int:
        """How many bytes are allocated."""
        return sum(self._used.values())

    def on_grow(self, listener: Callable[[Region], None]) -> Callable[[], None]:
        """Has listener(region) called after each growth; returns a function that ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _grow(self, size: int) -> None:
        size = self._round(size)
        offset = self.size
        if offset + size > RESERVED:
            raise NoMemory(f"DMA memory is limited to {RESERVED >> 30} GiB")
        try:
            self._extend_file(offset + size)
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_SHARED | libc.MAP_FIXED
            address = libc.mmap(self._base + offset, size, protection, flags, self.fd, offset)
        except OSError as e:
            raise NoMemory(
                f"grow DMA memory by {size // MIB} MiB of {self.page_size // 1024} KiB pages: {e.strerror}"
            ) from e
        if self.page_size == mmap.PAGESIZE:
            libc.madvise(address, size, libc.MADV_HUGEPAGE)  # the kernel may ignore it
        region = Region(address, size, offset)
        self.regions.append(region)
        self._seams.add(address)
        self._insert(address, size)
        log.info("DMA memory: %d MiB of %d KiB pages", self.size // MIB, self.page_size // 1024)
        for listener in list(self._listeners):
            listener(region)

    def _extend_file(self, end: int) -> None:
        """Makes the file at least that long. It may be longer already: a peer can make it so."""
        try:
            os.ftruncate(self.fd, end)
        except PermissionError:  # it would have to shrink
            if os.fstat(self.fd).st_size < end:
                raise

    def allocate(self, size: int, align: int = 4096, in_one_page: bool = False) -> int:
        """Allocates size bytes, zeroed, aligned to align (a power of two); returns the address. Grows if needed; raises
        NoMemory.

        in_one_page: not across the border of a page, if pages are that large: a device that is told physical
        addresses sees it in one piece.
        """
        if size <= 0:
            raise InvalidArgument(f"allocation of {size} bytes of DMA memory")
        page = self.page_size if in_one_page and size <= self.page_size else 0
        address = self._take(size, align, page)
        if address is None:
            self._grow(max(size + align, self._step))
            address = self._take(size, align, page)
        if address is None:
            raise NoMemory(f"no {size} bytes of DMA memory in one piece")
        if address < self._touched:
            ctypes.memset(address, 0, min(size, self._touched - address))
        self._touched = max(self._touched, address + size)
        return address

    def _take(self, size: int, align: int, page: int) -> int | None:
        size = -(-size // 64) * 64
        for i, (start, length) in enumerate(self._free):
            address = -(-start // align) * align
            if page and address // page != (address + size - 1) // page:
                address = -(-address // page) * page
            if address + size <= start + length:
                rest = [(start, address - start), (address + size, start + length - address - size)]
                self._free[i : i + 1] = [(a, n) for a, n in rest if n]
                self._used[address] = size
                return address
        return None

    def size_of(self, address: int) -> int:
        """Bytes at what allocate returned."""
        return self._used[address]

    def free(self, address: int) -> None:
        """Frees what allocate returned."""
        self._insert(address, self._used.pop(address))

    def _insert(self, address: int, size: int) -> None:
        self._free.append((address, size))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for start, length in self._free:
            if merged and sum(merged[-1]) == start and start not in self._seams:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged

    def view(self, address: int, size: int) -> memoryview:
        """The bytes at address, writable, without a copy."""
        return memoryview((ctypes.c_char * size).from_address(address)).cast("B")

    def close(self) -> None:
        """Unmaps and closes the memory. Nobody may use its addresses any more."""
        if self._reserved:
            libc.munmap(self._reserved, RESERVED + self.page_size)
            self._reserved = 0
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
