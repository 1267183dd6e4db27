"""The front-end's memory as a target sees it: file ranges mapped here, found by the front-end's addresses."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import stat
from collections.abc import Sequence

from virtiod.core import libc
from virtiod.core.errors import InvalidArgument, NoMemory
from virtiod.target.interface import MappedRegion
from virtiod.transports.vhost_user.wire import MemoryRegion

log = logging.getLogger(__name__)

MAX_SLOTS = 64


class _Mapping:
    """One region and the mapping that holds it, which may be larger: mappings start and end at pages."""

    def __init__(self, region: MemoryRegion, fd: int) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument(f"region at {region.guest:#x}: its descriptor is not a file's")
        if region.offset + region.size > status.st_size:
            raise InvalidArgument(
                f"region at {region.guest:#x}: {region.offset:#x}+{region.size:#x} is beyond "
                f"the file's end at {status.st_size:#x}"
            )
        if not _is_sealed(fd):
            log.info("region at %#x: the front-end could shrink its file, which would kill this process", region.guest)
        page = max(mmap.PAGESIZE, status.st_blksize)  # for files on huge pages that is their size
        skip = region.offset % page
        self._length = -(-(skip + region.size) // page) * page
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        try:
            start = libc.mmap(None, self._length, protection, mmap.MAP_SHARED, fd, region.offset - skip)
        except OSError as error:
            raise NoMemory(f"region at {region.guest:#x}: mmap: {error.strerror}", error.errno) from error
        self._start: int | None = start
        self.region = MappedRegion(region.guest, region.size, region.user, start + skip)

    def unmap(self) -> None:
        if self._start is not None:
            libc.munmap(self._start, self._length)
            self._start = None


def _is_sealed(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


class MemoryTable:
    """The regions of one front-end. Regions overlap neither in guest-physical nor in user addresses."""

    def __init__(self) -> None:
        self._mappings: list[_Mapping] = []

    @property
    def regions(self) -> tuple[MappedRegion, ...]:
        return tuple(mapping.region for mapping in self._mappings)

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Map a region. The descriptor remains the caller's."""
        if len(self._mappings) >= MAX_SLOTS:
            raise NoMemory(f"region at {region.guest:#x}: all {MAX_SLOTS} slots are taken")
        for known in self.regions:
            for what, new, old in (("guest", region.guest, known.guest), ("user", region.user, known.user)):
                if new < old + known.size and old < new + region.size:
                    raise InvalidArgument(f"region at {region.guest:#x}: overlaps {old:#x} in {what} addresses")
        self._mappings.append(_Mapping(region, fd))

    @classmethod
    def of(cls, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> MemoryTable:
        """A table of these regions, or nothing mapped."""
        table = cls()
        try:
            for region, fd in zip(regions, fds, strict=True):
                table.add(region, fd)
        except BaseException:
            table.close()
            raise
        return table

    def without(self, region: MemoryRegion) -> MemoryTable:
        """The same mappings but for one region, named by its addresses and size."""
        key = (region.guest, region.size, region.user)
        rest = MemoryTable()
        rest._mappings = [mapping for mapping in self._mappings if mapping.region[:3] != key]
        if len(rest._mappings) == len(self._mappings):
            raise InvalidArgument(f"region at {region.guest:#x}+{region.size:#x}: is not known")
        return rest

    def local(self, user: int, size: int) -> int:
        """Where a range of user addresses is here. It must lie in one region."""
        for region in self.regions:
            if region.user <= user and user + size <= region.user + region.size:
                # Safety: user >= region.user and the end is inside, both just checked.
                return region.local + (user - region.user)
        raise InvalidArgument(f"user address {user:#x}+{size:#x} is in no region")

    def close(self, keep: MemoryTable | None = None) -> None:
        """Unmap all regions that `keep` does not have. Idempotent."""
        for mapping in self._mappings:
            if keep is None or mapping not in keep._mappings:
                mapping.unmap()
        self._mappings = []
