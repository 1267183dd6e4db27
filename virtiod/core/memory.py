"""DMA memory: what devices and targets may read and write.

It is a memfd, mapped at an address that never changes, and sealed: no peer can shrink it, nor keep it from growing by
a seal of its own. It grows by whole regions, each mapped after the last one; users of the memory (transports) are told
of each new region. Its pages are huge pages (1 GB, else 2 MB) when enough can be had, and plain ones otherwise, which
peers need not know. Huge pages are taken at once, so that a shortage is an error here, and no SIGBUS later. If there
are none left to grow by, it grows by plain pages, in a second memfd.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

from virtiod.core import libc
from virtiod.core.errors import InvalidArgument, NoMemory, NotSupported
from virtiod.core.pages import Huge, available, has_any, page_sizes, shortage

log = logging.getLogger(__name__)

MIB = 1 << 20
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
    """A mapped part of a file: address in this process, size and offset in the file, all in bytes."""

    address: int
    size: int
    offset: int
    fd: int = -1


class _File:
    """A memfd with pages of one size."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.used = 0  # bytes that are mapped
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if self.is_huge:
            flags |= os.MFD_HUGETLB | (page_size.bit_length() - 1) << os.MFD_HUGE_SHIFT
        self.fd = os.memfd_create("virtiod", flags)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    @property
    def is_huge(self) -> bool:
        return self.page_size > mmap.PAGESIZE

    def map(self, address: int, size: int) -> Region:
        """Maps the next bytes at an address; takes their pages now if they are huge. Raises OSError: nothing is taken.

        The file may be longer already: a peer can make it so.
        """
        end = self.used + size
        try:
            os.ftruncate(self.fd, end)
        except PermissionError:  # it would have to shrink
            if os.fstat(self.fd).st_size < end:
                raise
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | libc.MAP_FIXED
        try:
            libc.mmap(address, size, protection, flags, self.fd, self.used)  # reserves huge pages
            if self.is_huge:
                os.posix_fallocate(self.fd, self.used, size)  # a cgroup or a memory policy may still refuse them
            else:
                libc.madvise(address, size, libc.MADV_HUGEPAGE)  # the kernel may ignore it
        except OSError:
            reserve(size, address)
            libc.punch_hole(self.fd, self.used, size)
            raise
        region = Region(address, size, self.used, self.fd)
        self.used = end
        return region

    def close(self) -> None:
        os.close(self.fd)


def reserve(size: int, address: int | None = None) -> int:
    """Keeps address space from other use, at an address if that is given; returns where it is. It costs nothing."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | libc.MAP_NORESERVE
    return libc.mmap(address, size, libc.PROT_NONE, flags | (libc.MAP_FIXED if address else 0), -1)


class DmaMemory:
    """The daemon's DMA memory. Not thread-safe: for the control plane only.

    size is what is mapped at first, in bytes; growth is in regions of the same size or what is asked for. page_size: in
    bytes; None for the largest pages that huge allows, and that can be had.
    """

    def __init__(self, size: int, page_size: int | None = None, huge: Huge = "try") -> None:
        if size <= 0:
            raise InvalidArgument(f"DMA memory of {size} bytes")
        self.regions: list[Region] = []
        self._falls_back = huge == "try" and page_size is None
        self._files: list[_File] = []
        self._listeners: list[Callable[[Region], None]] = []
        self._free: list[tuple[int, int]] = []  # (address, size), sorted, never adjacent
        self._seams: set[int] = set()  # where regions begin: peers map each by itself, so nothing spans two
        self._used: dict[int, int] = {}
        self._touched = 0  # memory from here on was never handed out: it is zero, and costs no page until used
        self._reserved = 0
        self._start(size, [page_size] if page_size else page_sizes(size, huge))
        if self._falls_back and self.page_size == mmap.PAGESIZE and has_any():
            log.warning("DMA memory is of plain pages: %s", shortage(size))

    def _start(self, size: int, sizes: list[int]) -> None:
        """Maps the first region, of the first of these page sizes that there is enough of."""
        for page in sizes:
            self.page_size = page
            self._step = self._round(size)
            try:
                self._files.append(_File(page))
                # One page more than is used: huge pages can be mapped at multiples of their size only.
                self._reserved = reserve(RESERVED + page)
                self._base = self._round(self._reserved)
                self._grow_by(self._step)
                return
            except (NoMemory, OSError) as error:
                self.close()
                if page == sizes[-1]:
                    raise NoMemory(str(error)) from error
                log.warning("%s; smaller pages are tried", error)  # another process was faster
            except BaseException:
                self.close()
                raise

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

    @property
    def fd(self) -> int:
        """The file of the first region."""
        return self._files[0].fd

    def keep_huge(self) -> None:
        """Has it consist of huge pages for good. Raises NotSupported if it does not."""
        if any(file.page_size == mmap.PAGESIZE for file in self._files):
            raise NotSupported("DMA memory is made of plain pages, which have no lasting physical addresses")
        self._falls_back = False

    def _grow(self, size: int) -> None:
        try:
            self._grow_by(size)
        except NoMemory as error:
            if not self._falls_back or not self._files[-1].is_huge:
                raise
            log.warning("%s; it grows by plain pages", error)
            self._files.append(_File(mmap.PAGESIZE))
            self._grow_by(size)

    def _grow_by(self, size: int) -> None:
        size = self._round(size)
        file = self._files[-1]
        if self.size + size > RESERVED:
            raise NoMemory(f"DMA memory is limited to {RESERVED >> 30} GiB")
        try:
            region = file.map(self._base + self.size, size)
        except OSError as e:
            pages = f"{size // MIB} MiB of {file.page_size // 1024} KiB pages"
            left = f" ({available(file.page_size)} of them are free)" if file.is_huge else ""
            raise NoMemory(f"grow DMA memory by {pages}{left}: {e.strerror}") from e
        self.regions.append(region)
        self._seams.add(region.address)
        self._insert(region.address, size)
        log.info("DMA memory: %d MiB of %d KiB pages", self.size // MIB, file.page_size // 1024)
        for listener in list(self._listeners):
            listener(region)

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
        while self._files:
            self._files.pop().close()
