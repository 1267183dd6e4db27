"""Owning a device by VFIO: an IOMMU keeps it within DMA memory, and it interrupts (Linux, driver-api/vfio).

All devices of the process are in one container, an address space in which DMA memory is mapped once, linearly.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from virtiod.core.errors import Busy, ConnectError, DeviceError, NoMemory, NotSupported, RemovedError
from virtiod.core.memory import MIB, DmaMemory, Translation
from virtiod.core.threads import in_thread
from virtiod.pci.devices import PciDevice
from virtiod.transports.pci import wire
from virtiod.transports.pci.access import Access
from virtiod.transports.pci.registers import MappedWindow
from virtiod.transports.pci.wire import Place

DEV = "/dev/vfio"
DEADLINE_S = 8.0  # for the kernel: it resets the device, and pins and maps memory
# Where devices see DMA memory: above what is below 4 GiB on every machine (interrupts, BARs), and below 2^39, which
# the smallest IOMMUs reach, with all that the memory may grow to.
IOVA_BASE = 4 << 30

# include/uapi/linux/vfio.h: _IO(';', 100 + n)
_GET_API_VERSION, _CHECK_EXTENSION, _SET_IOMMU = 0x3B64, 0x3B65, 0x3B66
_GROUP_GET_STATUS, _GROUP_SET_CONTAINER, _GROUP_GET_DEVICE_FD = 0x3B67, 0x3B68, 0x3B6A
_DEVICE_GET_INFO, _DEVICE_GET_REGION_INFO, _DEVICE_GET_IRQ_INFO = 0x3B6B, 0x3B6C, 0x3B6D
_DEVICE_SET_IRQS, _DEVICE_RESET, _MAP_DMA = 0x3B6E, 0x3B6F, 0x3B71
_API_VERSION = 0
_TYPE1_V2 = 3
_GROUP_VIABLE = 1
_DEVICE_CAN_RESET = 1
_REGION_CAN_MMAP = 4
_IRQ_EVENTFD = 1
_DMA_READ_WRITE = 3
_SET_TRIGGER = 1 << 5
_SET_NONE, _SET_EVENTFD = _SET_TRIGGER | 1 << 0, _SET_TRIGGER | 1 << 2
_MSIX_IRQ, _ERROR_IRQ, _REQUEST_IRQ = 2, 3, 4
_CONFIG_REGION = 7
_DEVICE_INFO = struct.Struct("=IIII")  # argsz, flags, num_regions, num_irqs
_REGION_INFO = struct.Struct("=IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
_IRQ_INFO = struct.Struct("=IIII")  # argsz, flags, index, count
_IRQ_SET = struct.Struct("=IIIII")  # argsz, flags, index, start, count
_DMA_MAP = struct.Struct("=IIQQQ")  # argsz, flags, vaddr, iova, size


class Container:
    """The address space of all devices, while there is one. Its methods block; any thread may call them."""

    def __init__(self, memory: DmaMemory) -> None:
        self._memory = memory
        self._fd = -1
        self._groups: dict[int, tuple[int, int]] = {}  # file descriptor, and number of devices in use
        self._mapped = 0  # regions
        self._lock = threading.Lock()

    def translation(self) -> Translation:
        return Translation(delta=IOVA_BASE - self._memory.base)

    def open_device(self, device: PciDevice) -> int:
        """A file descriptor of the device, for close_device(). Raises VirtiodError."""
        with self._lock:
            group = device.iommu_group
            if group is None:
                raise NotSupported(f"{device.address} has no IOMMU group")
            try:
                self._join(group)
                name = bytearray(device.address.encode() + b"\0")
                fd: int = fcntl.ioctl(self._groups[group][0], _GROUP_GET_DEVICE_FD, name)
                return fd
            except OSError as error:
                self._leave(group)
                raise ConnectError(f"{device.address}: open it by VFIO: {error.strerror}", error.errno) from error
            except BaseException:
                self._leave(group)
                raise

    def close_device(self, device: PciDevice, fd: int) -> None:
        """Closes a device, none of whose registers is mapped any more."""
        with self._lock:
            os.close(fd)
            assert device.iommu_group is not None
            self._leave(device.iommu_group)

    def map_memory(self) -> None:
        """Pins and maps the regions that the devices don't reach yet. Raises NoMemory."""
        with self._lock:
            for region in self._memory.regions[self._mapped :]:
                request = _DMA_MAP.pack(
                    _DMA_MAP.size, _DMA_READ_WRITE, region.address, IOVA_BASE + region.offset, region.size
                )
                try:
                    fcntl.ioctl(self._fd, _MAP_DMA, request)
                except OSError as error:
                    raise NoMemory(_map_failed(region.size, error)) from error
                self._mapped += 1

    def _join(self, group: int) -> None:
        """Adds a user of the group, and the group to the container if it is the first."""
        if group in self._groups:
            fd, users = self._groups[group]
            self._groups[group] = fd, users + 1
            return
        first = self._fd < 0
        if first:
            self._fd = _open_container()
        try:
            fd = _open_group(group, self._fd)
            self._groups[group] = fd, 1
            if first:
                fcntl.ioctl(self._fd, _SET_IOMMU, _TYPE1_V2)
        except BaseException:
            if first and group not in self._groups:
                self._end()
            raise

    def _leave(self, group: int) -> None:
        if group not in self._groups:
            return
        fd, users = self._groups.pop(group)
        if users > 1:
            self._groups[group] = fd, users - 1
            return
        os.close(fd)
        if not self._groups:
            self._end()

    def _end(self) -> None:
        os.close(self._fd)  # which unmaps and unpins all
        self._fd = -1
        self._mapped = 0


def _open_container() -> int:
    path = f"{DEV}/vfio"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConnectError(f"open {path}: {error.strerror}; is the module vfio-pci loaded?", error.errno) from error
    try:
        if fcntl.ioctl(fd, _GET_API_VERSION) != _API_VERSION or not fcntl.ioctl(fd, _CHECK_EXTENSION, _TYPE1_V2):
            raise NotSupported(f"{path}: the kernel has no IOMMU of type 1 for VFIO (module vfio_iommu_type1)")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_group(group: int, container: int) -> int:
    path = f"{DEV}/{group}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Busy(f"{path}: another process uses IOMMU group {group}") from error
        raise ConnectError(f"open {path}: {error.strerror}", error.errno) from error
    try:
        status = bytearray(struct.pack("=II", 8, 0))
        fcntl.ioctl(fd, _GROUP_GET_STATUS, status)
        if not struct.unpack("=II", status)[1] & _GROUP_VIABLE:
            raise Busy(f"IOMMU group {group} has devices that are bound to drivers of the kernel")
        fcntl.ioctl(fd, _GROUP_SET_CONTAINER, struct.pack("=i", container))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _map_failed(size: int, error: OSError) -> str:
    text = f"map {size // MIB} MiB of DMA memory for devices: {error.strerror}"
    if error.errno in {errno.ENOMEM, errno.EPERM}:
        text += "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=)"
    return text


class _Region(NamedTuple):
    flags: int
    size: int
    offset: int


class VfioAccess(Access):
    """Access by VFIO."""

    translates = True

    def __init__(self, device: PciDevice, container: Container, fd: int) -> None:
        self._device = device
        self._container = container
        self._fd = fd
        self._windows: list[MappedWindow] = []
        self._signals: dict[int, int] = {}  # eventfds by interrupt index
        self._interrupting = False
        info = self._ask(_DEVICE_GET_INFO, _DEVICE_INFO.pack(_DEVICE_INFO.size, 0, 0, 0))
        self._can_reset = bool(_DEVICE_INFO.unpack(info)[1] & _DEVICE_CAN_RESET)
        self._config = self._region(_CONFIG_REGION)

    @classmethod
    async def open(cls, device: PciDevice, container: Container) -> VfioAccess:
        """Opens a device that is bound to vfio-pci. The kernel resets it (FLR, if it can). Raises VirtiodError."""

        def work() -> VfioAccess:
            fd = container.open_device(device)
            try:
                return cls(device, container, fd)
            except BaseException:
                container.close_device(device, fd)
                raise

        access = await in_thread(work, VfioAccess._close, DEADLINE_S, f"open {device.address}")
        access._listen()
        return access

    def _ask(self, request: int, argument: bytes) -> bytes:
        answer = bytearray(argument)
        try:
            fcntl.ioctl(self._fd, request, answer)
        except OSError as error:
            raise DeviceError(f"{self._device.address}: VFIO request {request:#x}: {error.strerror}") from error
        return bytes(answer)

    def _region(self, index: int) -> _Region:
        answer = self._ask(_DEVICE_GET_REGION_INFO, _REGION_INFO.pack(_REGION_INFO.size, 0, index, 0, 0, 0))
        _, flags, _, _, size, offset = _REGION_INFO.unpack(answer)
        return _Region(flags, size, offset)

    # ---- configuration space and registers

    def config(self) -> bytes:
        try:
            return os.pread(self._fd, wire.CONFIG_BYTES, self._config.offset)
        except OSError as error:
            raise DeviceError(f"{self._device.address}: configuration space: {error.strerror}") from error

    def enable(self, dma: bool) -> None:
        at = self._config.offset + wire.COMMAND
        try:
            command = int.from_bytes(os.pread(self._fd, 2, at), "little")
            os.pwrite(self._fd, wire.command(command, dma).to_bytes(2, "little"), at)
        except OSError as error:
            raise DeviceError(f"{self._device.address}: configuration space: {error.strerror}") from error

    def bars(self) -> dict[int, int]:
        regions = {bar: self._region(bar) for bar in range(wire.BARS)}
        return {bar: r.size for bar, r in regions.items() if r.size and r.flags & _REGION_CAN_MMAP}

    def window(self, place: Place) -> MappedWindow:
        window = MappedWindow(self._fd, self._region(place.bar).offset, place)
        self._windows.append(window)
        return window

    # ---- memory

    async def share_memory(self) -> None:
        await in_thread(self._container.map_memory, lambda _: None, DEADLINE_S, "map DMA memory")

    def translation(self) -> Translation:
        return self._container.translation()

    # ---- interrupts

    def interrupts(self) -> int:
        return self._irq_count(_MSIX_IRQ)

    def _irq_count(self, index: int) -> int:
        answer = self._ask(_DEVICE_GET_IRQ_INFO, _IRQ_INFO.pack(_IRQ_INFO.size, 0, index, 0))
        _, flags, _, count = _IRQ_INFO.unpack(answer)
        return count if flags & _IRQ_EVENTFD else 0

    def _set_irqs(self, index: int, fds: Sequence[int]) -> None:
        flags = _SET_EVENTFD if fds else _SET_NONE
        size = _IRQ_SET.size + 4 * len(fds)
        self._ask(_DEVICE_SET_IRQS, _IRQ_SET.pack(size, flags, index, 0, len(fds)) + struct.pack(f"={len(fds)}i", *fds))

    def connect_interrupts(self, fds: Sequence[int]) -> None:
        if fds or self._interrupting:
            self._set_irqs(_MSIX_IRQ, fds)
        self._interrupting = bool(fds)

    def _listen(self) -> None:
        """Listens for errors, and for requests to give the device back: the kernel waits until it is closed."""
        for index in (_ERROR_IRQ, _REQUEST_IRQ):
            with suppress(DeviceError):  # not every device, or kernel, can tell
                if self._irq_count(index):
                    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                    self._signals[index] = fd
                    asyncio.get_running_loop().add_reader(fd, self._signalled, index)
                    self._set_irqs(index, [fd])

    def _signalled(self, index: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._signals[index])
        address = self._device.address
        if self.on_lost is not None:
            wanted = index == _REQUEST_IRQ
            self.on_lost(
                RemovedError(f"{address}: the device is being removed")
                if wanted
                else DeviceError(f"{address}: the device reported a PCI error")
            )

    # ---- the end

    async def function_reset(self) -> bool:
        if self._can_reset:
            await in_thread(
                lambda: self._ask(_DEVICE_RESET, b""), lambda _: None, DEADLINE_S, f"reset {self._device.address}"
            )
        return self._can_reset

    async def close(self) -> None:
        for fd in self._signals.values():
            asyncio.get_running_loop().remove_reader(fd)
        address = self._device.address
        await in_thread(self._close, lambda _: None, DEADLINE_S, f"close {address}")  # the kernel resets it

    def _close(self) -> None:
        for window in self._windows:
            window.close()
        self._windows.clear()
        for fd in self._signals.values():
            os.close(fd)
        self._signals.clear()
        if self._fd >= 0:
            self._container.close_device(self._device, self._fd)
            self._fd = -1
