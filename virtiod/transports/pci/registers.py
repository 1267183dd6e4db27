"""Registers mapped into this process, read and written by exactly one access of the right width each.

`memoryview.cast` with an item of that width does so; slices, struct.pack_into and ctypes may split or repeat an access.
"""

from __future__ import annotations

import ctypes
import mmap

from virtiod.core.errors import DeviceError
from virtiod.transports.pci.mmio import Guard
from virtiod.transports.pci.wire import Place

_FORMATS = {1: "B", 2: "H", 4: "I"}


class MappedWindow:
    """A part of a BAR, `offset` being where the BAR begins in the file that maps it. See access.Window."""

    def __init__(self, fd: int, offset: int, place: Place) -> None:
        start = offset + place.offset
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        size = -(-(start - page + place.length) // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=page)
        except OSError as error:
            raise DeviceError(f"map BAR {place.bar}: {error.strerror}", error.errno) from error
        self._base = start - page
        with memoryview(self._map) as whole:
            self._views = {width: whole.cast(code) for width, code in _FORMATS.items()}  # type: ignore[call-overload]
        anchor = ctypes.c_char.from_buffer(self._map)
        first = ctypes.addressof(anchor)
        del anchor
        self.address = first + self._base
        self._guard = Guard(first, size)

    def read(self, width: int, offset: int) -> int:
        value: int = self._views[width][(self._base + offset) // width]
        return value

    def write(self, width: int, offset: int, value: int) -> None:
        self._views[width][(self._base + offset) // width] = value

    @property
    def lost(self) -> bool:
        return self._guard.lost

    def close(self) -> None:
        """Unmaps the registers. Nobody may use the address any more."""
        for view in self._views.values():
            view.release()
        self._guard.close()
        self._map.close()
