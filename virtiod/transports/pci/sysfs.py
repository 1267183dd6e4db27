"""Owning a device without an IOMMU: registers and configuration space by sysfs, physical addresses, no interrupts.

This works with no driver bound, and with those that do nothing (uio_pci_generic). It needs root, and trust in the
device, which could write to any memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from virtiod.core.errors import ConnectError, DeviceError, InvalidArgument, RemovedError
from virtiod.core.memory import Translation
from virtiod.core.physical import PhysicalPages
from virtiod.core.threads import in_thread
from virtiod.pci.devices import PciDevice
from virtiod.pci.uevents import Watch
from virtiod.transports.pci import wire
from virtiod.transports.pci.access import Access
from virtiod.transports.pci.registers import MappedWindow
from virtiod.transports.pci.wire import Place

DEADLINE_S = 8.0  # to lock memory, or to reset the device
_MEMORY_RESOURCE = 0x200  # IORESOURCE_MEM, include/linux/ioport.h
_ADVICE = {
    errno.EPERM: "is the kernel locked down (/sys/kernel/security/lockdown)?",
    errno.EACCES: "this needs root",
    errno.EINVAL: "a driver of the kernel has it",
    errno.EBUSY: "a driver of the kernel has it",
}


class SysfsAccess(Access):
    """Access by sysfs."""

    translates = False

    def __init__(self, device: PciDevice, pages: PhysicalPages) -> None:
        self._device = device
        self._path = device.path
        self._pages = pages
        self._windows: list[MappedWindow] = []
        self._enabled = False
        self._fd = self._open("config")
        self._watch = Watch(device.address, self._removed)

    def _removed(self) -> None:
        if self.on_lost is not None:
            self.on_lost(RemovedError(f"{self._device.address}: the device was removed"))

    def _open(self, name: str) -> int:
        try:
            return os.open(self._path / name, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise RemovedError(f"{self._device.address}: the device is gone") from error
        except OSError as error:
            raise ConnectError(self._failed(f"open {self._path / name}", error), error.errno) from error

    def _failed(self, what: str, error: OSError) -> str:
        advice = _ADVICE.get(error.errno or 0)
        return f"{self._device.address}: {what}: {error.strerror}" + (f"; {advice}" if advice else "")

    # ---- configuration space and registers

    def config(self) -> bytes:
        try:
            return os.pread(self._fd, wire.CONFIG_BYTES, 0)
        except OSError as error:
            raise DeviceError(self._failed("read configuration space", error), error.errno) from error

    def enable(self, dma: bool) -> None:
        if self._device.driver is None and not self._enabled:
            # The kernel powers the device up here; without a driver nobody else has.
            with suppress(OSError):
                (self._path / "enable").write_text("1")
                self._enabled = True
        try:
            command = int.from_bytes(os.pread(self._fd, 2, wire.COMMAND), "little")
            os.pwrite(self._fd, wire.command(command, dma).to_bytes(2, "little"), wire.COMMAND)
        except OSError as error:
            raise DeviceError(self._failed("write configuration space", error), error.errno) from error

    def bars(self) -> dict[int, int]:
        return parse_resources(_read(self._path / "resource"))

    def window(self, place: Place) -> MappedWindow:
        fd = self._open(f"resource{place.bar}")
        try:
            window = MappedWindow(fd, 0, place)
        except DeviceError as error:
            advice = _ADVICE.get(error.errno)
            raise DeviceError(f"{self._device.address}: {error}" + (f"; {advice}" if advice else "")) from error
        finally:
            os.close(fd)
        self._windows.append(window)
        return window

    # ---- memory and interrupts

    async def share_memory(self) -> None:
        await in_thread(self._pages.extend, lambda _: None, DEADLINE_S, "lock DMA memory")

    def translation(self) -> Translation:
        return self._pages.translation()

    def interrupts(self) -> int:
        return 0

    def connect_interrupts(self, fds: Sequence[int]) -> None:
        if fds:
            raise InvalidArgument(f"{self._device.address} can't interrupt")

    # ---- the end

    async def function_reset(self) -> bool:
        path = self._path / "reset"
        if not path.exists():
            return False
        try:
            await in_thread(lambda: path.write_text("1"), lambda _: None, DEADLINE_S, f"reset {self._device.address}")
        except OSError as error:
            raise DeviceError(self._failed("reset it", error), error.errno) from error
        return True

    async def close(self) -> None:
        self._watch.close()
        for window in self._windows:
            window.close()
        self._windows.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._enabled:
                with suppress(OSError):
                    (self._path / "enable").write_text("0")


def parse_resources(text: str) -> dict[int, int]:
    """The sizes of the memory BARs in sysfs's `resource`: a line "start end flags" for each resource."""
    found = {}
    for bar, line in enumerate(text.splitlines()[: wire.BARS]):
        start, end, flags = (int(word, 16) for word in line.split())
        if flags & _MEMORY_RESOURCE and start:
            found[bar] = end - start + 1
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise RemovedError(f"{path}: {error.strerror}") from error
