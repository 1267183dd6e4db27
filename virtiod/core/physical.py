"""The physical addresses of DMA memory, for devices that no IOMMU translates for.

This needs huge pages: the kernel may move plain ones at any time. They are locked, so that each stays in memory, and
looked up in /proc/self/pagemap, which shows addresses to a privileged process only (CAP_SYS_ADMIN).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
from pathlib import Path

from virtiod.core import libc
from virtiod.core.counted import counted
from virtiod.core.errors import NoMemory, NotSupported, VirtiodError
from virtiod.core.memory import MIB, RESERVED, DmaMemory, Region, Translation

PAGEMAP = Path("/proc/self/pagemap")
PRESENT = 1 << 63
FRAME_BITS = 55
NOWHERE = 0xFF  # each byte of an entry that is not known: no device has such an address


class PhysicalPages:
    """The table of physical addresses of a DmaMemory. Each entry is written once, before a device is told of it."""

    def __init__(self, memory: DmaMemory, pagemap: Path = PAGEMAP) -> None:
        memory.keep_huge()
        self._memory = memory
        self._pagemap = pagemap
        self._shift = memory.page_size.bit_length() - 1
        self._entries: ctypes.Array[ctypes.c_uint64] = (ctypes.c_uint64 * (RESERVED >> self._shift))()
        ctypes.memset(self._entries, NOWHERE, ctypes.sizeof(self._entries))
        self._known = 0
        self._extending = threading.Lock()

    def extend(self) -> None:
        """Locks and looks up the new regions. Blocks, as pages may have to be zeroed first; any thread may call it."""
        with self._extending:
            for region in self._memory.regions[self._known :]:
                self._pin(region)
                frames = self._look_up(region)
                first = (region.address - self._memory.base) >> self._shift
                for index, address in enumerate(frames, first):
                    self._entries[index] = ctypes.c_uint64(address)
                self._known += 1

    def translation(self) -> Translation:
        """The translation by this table, which stays valid when the table is extended."""
        return Translation(table=ctypes.addressof(self._entries), base=self._memory.base, shift=self._shift)

    def _pin(self, region: Region) -> None:
        try:
            libc.mlock(region.address, region.size)
        except OSError as error:
            raise NoMemory(
                f"lock {region.size // MIB} MiB of DMA memory: {error.strerror}; "
                f"raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"
            ) from error

    def _look_up(self, region: Region) -> list[int]:
        """The physical address of each page of a region."""
        page = self._memory.page_size
        try:
            with self._pagemap.open("rb", buffering=0) as file:
                entries = [
                    struct.unpack("=Q", os.pread(file.fileno(), 8, address // mmap.PAGESIZE * 8))[0]
                    for address in range(region.address, region.address + region.size, page)
                ]
        except OSError as error:
            raise VirtiodError(f"{self._pagemap}: {error.strerror}", error.errno) from error
        found = [(entry & (1 << FRAME_BITS) - 1) * mmap.PAGESIZE for entry in entries if entry & PRESENT]
        if len(found) < len(entries):
            raise NoMemory(f"{counted(len(entries) - len(found), 'huge page')} of DMA memory not present in memory")
        if not all(found):
            raise NotSupported(f"{self._pagemap} hides physical addresses: virtiod needs CAP_SYS_ADMIN (as root has)")
        if any(address % page for address in found):
            raise NotSupported(f"{self._pagemap}: DMA memory is not made of huge pages of {page // 1024} KiB")
        return found
