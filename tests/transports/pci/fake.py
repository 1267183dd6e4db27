"""A virtio PCI device made of Python: registers that mind how they are accessed, and how it is owned."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.transports.pci.space import BARS, QEMU, usual
from virtiod.core.errors import DeviceError, InvalidArgument
from virtiod.core.memory import Translation
from virtiod.pci.ownership import Owned
from virtiod.transports.pci.access import Access
from virtiod.transports.pci.context import PciContext
from virtiod.transports.pci.wire import Common, Place
from virtiod.virtio.features import Feature
from virtiod.virtio.status import Status

USUAL_FEATURES = 1 << Feature.VERSION_1 | 1 << Feature.ACCESS_PLATFORM | 1 << Feature.RING_RESET | 1 << 6
DOORBELLS = 0x7F0000000000  # where they would be mapped
WIDTHS = {
    Common.DEVICE_FEATURE_SELECT: 4,
    Common.DEVICE_FEATURE: 4,
    Common.DRIVER_FEATURE_SELECT: 4,
    Common.DRIVER_FEATURE: 4,
    Common.DEVICE_STATUS: 1,
    Common.CONFIG_GENERATION: 1,
    **{getattr(Common, name): 4 for name in ("QUEUE_DESC", "QUEUE_DRIVER", "QUEUE_DEVICE")},
}
UPPER_HALVES = {register + 4 for register in (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE)}


class Queue:
    def __init__(self, size: int) -> None:
        self.most = size
        self.clear()

    def clear(self) -> None:
        self.registers: dict[int, int] = {Common.QUEUE_SIZE: self.most, Common.QUEUE_MSIX_VECTOR: 0xFFFF}

    def get(self, register: int) -> int:
        return self.registers.get(register, 0)

    def address(self, register: int) -> int:
        return self.get(register) | self.get(register + 4) << 32


class Device:
    """What the registers lead to. `log` has what was done to it, in order."""

    def __init__(self, features: int = USUAL_FEATURES, queues: Sequence[int] = (256, 128), config: bytes = bytes(60)):
        self.features = features
        self.queues = [Queue(size) for size in queues]
        self.config = bytearray(config)
        self.log: list[str] = []
        self.gone = False
        self.refuses = False  # FEATURES_OK
        self.resets = True  # when told to
        self.reset_takes = 0  # looks at the status
        self.restless = False  # a configuration that changes whenever it is looked at
        self.vectors = 8  # that it can use
        self.isr = 0
        self.generation = 0
        self.clear()

    def clear(self) -> None:
        self.status = 0
        self.accepted = 0
        self.config_vector = 0xFFFF
        self.registers: dict[int, int] = {}
        for queue in self.queues:
            queue.clear()

    def selected(self) -> Queue | None:
        index = self.registers.get(Common.QUEUE_SELECT, 0)
        return self.queues[index] if index < len(self.queues) else None

    def read(self, register: int) -> int:
        queue = self.selected()
        if register == Common.DEVICE_FEATURE:
            return self.features >> 32 * self.registers.get(Common.DEVICE_FEATURE_SELECT, 0) & 0xFFFFFFFF
        if register == Common.NUM_QUEUES:
            return len(self.queues) + 1  # and one that is not there
        if register == Common.DEVICE_STATUS:
            return self._status()
        if register == Common.CONFIG_GENERATION:
            self.generation += self.restless
            return self.generation & 0xFF
        if register == Common.CONFIG_MSIX_VECTOR:
            return self.config_vector
        if register == Common.QUEUE_NOTIFY_OFF:
            return self.registers.get(Common.QUEUE_SELECT, 0)
        return queue.get(register) if queue else 0

    def _status(self) -> int:
        if self.status == 0 and self.reset_takes:
            self.reset_takes -= 1
            return Status.DRIVER_OK
        return self.status

    def write(self, register: int, value: int) -> None:
        queue = self.selected()
        if register == Common.DEVICE_STATUS:
            self._set_status(value)
        elif register == Common.DRIVER_FEATURE:
            self.accepted |= value << 32 * self.registers.get(Common.DRIVER_FEATURE_SELECT, 0)
        elif register == Common.CONFIG_MSIX_VECTOR:
            self.config_vector = value if value < self.vectors else 0xFFFF
        elif register == Common.QUEUE_MSIX_VECTOR and queue:
            queue.registers[register] = value if value < self.vectors else 0xFFFF
        elif register == Common.QUEUE_RESET and queue:
            self.log.append("reset queue")
            queue.clear()
        elif register >= Common.QUEUE_SIZE and queue:
            queue.registers[register] = value
        else:
            self.registers[register] = value

    def _set_status(self, value: int) -> None:
        if value == 0:
            self.log.append("reset")
            if self.resets:
                self.clear()
            return
        self.log.append(f"status {value}")
        self.status = value & ~Status.FEATURES_OK if self.refuses else value


class Window:
    """One structure's registers. Each access must be as wide as the register."""

    def __init__(self, device: Device, offset: int) -> None:
        self._device = device
        self._kind = {at: kind for kind, _, at, _ in QEMU}[offset]
        self.address = DOORBELLS
        self.lost = False

    def read(self, width: int, offset: int) -> int:
        if self._device.gone:
            return (1 << 8 * width) - 1
        if self._kind == 1:
            assert width == WIDTHS.get(offset, 2), f"{width} bytes at {offset}"
            return self._device.read(offset)
        if self._kind == 3:
            value, self._device.isr = self._device.isr, 0
            return value
        assert offset % width == 0
        return int.from_bytes(self._device.config[offset : offset + width], "little")

    def write(self, width: int, offset: int, value: int) -> None:
        assert value < 1 << 8 * width
        if self._device.gone:
            return
        if self._kind == 1:
            assert width == WIDTHS.get(offset, 4 if offset in UPPER_HALVES else 2), f"{width} bytes at {offset}"
            self._device.write(offset, value)
        else:
            self._device.config[offset : offset + width] = value.to_bytes(width, "little")


class FakeAccess(Access):
    def __init__(self, device: Device, translates: bool, vectors: int, can_reset: bool) -> None:
        self.device = device
        self._translates = translates
        self._vectors = vectors
        self._can_reset = can_reset
        self.fds: list[int] = []
        self.closed = False

    def config(self) -> bytes:
        return usual()

    def bars(self) -> dict[int, int]:
        return BARS

    def window(self, place: Place) -> Window:
        return Window(self.device, place.offset)

    @property
    def translates(self) -> bool:
        return self._translates

    async def share_memory(self) -> None:
        self.device.log.append("share memory")

    def translation(self) -> Translation:
        return Translation(delta=-0x1000)

    def interrupts(self) -> int:
        return self._vectors

    def connect_interrupts(self, fds: Sequence[int]) -> None:
        self.fds = list(fds)

    def interrupt(self, vector: int) -> None:
        os.eventfd_write(self.fds[vector], 1)

    def enable(self, dma: bool) -> None:
        if self.device.gone:
            raise DeviceError("configuration space: Input/output error")
        self.device.log.append("dma" if dma else "no dma")

    async def function_reset(self) -> bool:
        if self._can_reset:
            self.device.log.append("function reset")
            self.device.resets = True
        return self._can_reset

    async def close(self) -> None:
        assert not self.fds
        self.closed = True


class FakeOwned(Owned):
    """Counts how often it is given back, with nothing of it open."""

    def __init__(self, context: FakeContext) -> None:
        self.context = context

    async def give_back(self) -> None:
        assert all(access.closed for access in self.context.accesses)
        self.context.given_back += 1


class FakeContext(PciContext):
    """Gives out one device. `taken` and `given_back` count."""

    def __init__(
        self, device: Device, translates: bool = True, vectors: int = 8, can_reset: bool = False, absent: bool = False
    ) -> None:
        self.device = device
        self._arguments = (translates, vectors, can_reset)
        self._absent = absent
        self.taken = 0
        self.given_back = 0
        self.accesses: list[FakeAccess] = []

    @property
    def access(self) -> FakeAccess:
        return self.accesses[-1]

    async def take(self, address: str, dev_type: str) -> FakeOwned:
        if self._absent:
            raise InvalidArgument(f"{address} is a virtio-net device")
        self.taken += 1
        return FakeOwned(self)

    async def open(self, owned: Owned) -> FakeAccess:
        assert isinstance(owned, FakeOwned) and owned.context is self
        self.accesses.append(FakeAccess(self.device, *self._arguments))
        return self.access
