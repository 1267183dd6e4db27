"""The driver's side of a virtio PCI device: one method for each thing to ask of it (virtio 1.2 §4.1.4, §4.1.5)."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from virtiod.core.errors import DeadlineError, NotSupported, ProtocolError, RemovedError
from virtiod.transports.pci import wire
from virtiod.transports.pci.access import Access, Window
from virtiod.transports.pci.wire import Common
from virtiod.virtio.features import Feature
from virtiod.virtio.status import Status

GENERATION_TRIES = 20
RESET_DEADLINE_S = 2.0
POLL_S = 0.001
MAX_QUEUES = 256


class QueueInfo(NamedTuple):
    """What a device says of a queue: its largest size in entries (0: there is none), and where it is notified."""

    size: int
    notify_off: int


class Client:
    """Drives one device by its registers, which answer at once; only resets wait. Errors name `address`.

    A device that is gone answers all ones: where these are no valid value, methods raise RemovedError.
    """

    def __init__(self, access: Access, address: str, dev_type: str) -> None:
        self._name = address
        self._fields = wire.CONFIG_FIELDS[dev_type]
        self._layout = layout = wire.layout(access.config(), access.bars())
        self._common: Window = access.window(layout.common)
        self._notify: Window = access.window(layout.notify)
        self._isr: Window = access.window(layout.isr)
        self._device: Window | None = access.window(layout.device) if layout.device else None
        self._has_reset = layout.common.length >= wire.COMMON_RESET_BYTES
        if self.status() == wire.GONE:
            raise RemovedError(f"{address}: the device does not answer")

    # ---- status and features

    def status(self) -> int:
        return self._common.read(1, Common.DEVICE_STATUS)

    def add_status(self, bits: int) -> None:
        """Sets status bits; only reset clears any (§2.1.1)."""
        self._common.write(1, Common.DEVICE_STATUS, self.status() | bits)

    def gone(self) -> bool:
        """Whether the device was removed."""
        return self._common.lost or self._notify.lost or self.status() == wire.GONE

    async def reset(self) -> None:
        """Resets the device, and waits until that is done (§4.1.4.3.2). Raises DeadlineError, RemovedError."""
        self._common.write(1, Common.DEVICE_STATUS, 0)
        deadline = time.monotonic() + RESET_DEADLINE_S
        while status := self.status():
            if self.gone():
                raise RemovedError(f"{self._name}: the device is gone")
            if time.monotonic() > deadline:
                raise DeadlineError(f"{self._name}: no reset within {RESET_DEADLINE_S:g} s (status {status:#x})")
            await asyncio.sleep(POLL_S)

    def features(self) -> int:
        """The feature bits that the device offers."""
        found = 0
        for half in range(2):
            self._common.write(4, Common.DEVICE_FEATURE_SELECT, half)
            found |= self._common.read(4, Common.DEVICE_FEATURE) << 32 * half
        return found

    def accept(self, features: int) -> None:
        """Accepts features. Raises ProtocolError when the device does not agree (§3.1.1)."""
        for half in range(2):
            self._common.write(4, Common.DRIVER_FEATURE_SELECT, half)
            self._common.write(4, Common.DRIVER_FEATURE, features >> 32 * half & 0xFFFFFFFF)
        self.add_status(Status.FEATURES_OK)
        status = self.status()
        if self.gone():
            raise RemovedError(f"{self._name}: the device is gone")
        if not status & Status.FEATURES_OK:
            raise ProtocolError(f"{self._name}: the device refused FEATURES_OK for {features:#x} (status {status:#x})")

    # ---- configuration

    def generation(self) -> int:
        return self._common.read(1, Common.CONFIG_GENERATION)

    def take_interrupts(self) -> int:
        """The ISR status, which reading clears (§4.1.4.5)."""
        return self._isr.read(1, 0)

    def read_config(self, offset: int, size: int) -> bytes:
        """A part of the device's configuration, shorter where it ends, all of one generation (§4.1.4.3.1)."""
        if self._device is None or self._layout.device is None:
            raise NotSupported(f"{self._name}: the device has no configuration")
        size = max(0, min(size, self._layout.device.length - offset))
        for _ in range(GENERATION_TRIES):
            before = self.generation()
            data = self._read_fields(self._device, offset + size)
            if self.gone():
                raise RemovedError(f"{self._name}: the device is gone")
            if self.generation() == before:
                return data[offset : offset + size]
        raise ProtocolError(f"{self._name}: the configuration changed during each of {GENERATION_TRIES} reads")

    def _read_fields(self, window: Window, end: int) -> bytes:
        data = b""
        for width in self._fields:
            if len(data) + width > end:
                break
            data += window.read(width, len(data)).to_bytes(width, "little")
        return data + bytes(window.read(1, at) for at in range(len(data), end))

    def set_config_vector(self, vector: int) -> int:
        """Sets the MSI-X vector of configuration changes; returns the vector that the device took, or NO_VECTOR."""
        self._common.write(2, Common.CONFIG_MSIX_VECTOR, vector)
        return self._common.read(2, Common.CONFIG_MSIX_VECTOR)

    # ---- queues

    def queues(self) -> list[QueueInfo]:
        """The device's queues, up to the first that is not there; MAX_QUEUES at most."""
        found: list[QueueInfo] = []
        for index in range(min(self._common.read(2, Common.NUM_QUEUES), MAX_QUEUES)):
            self._common.write(2, Common.QUEUE_SELECT, index)
            info = QueueInfo(
                self._common.read(2, Common.QUEUE_SIZE),
                self._common.read(2, Common.QUEUE_NOTIFY_OFF),
            )
            if not 0 < info.size <= 32768:
                break
            found.append(info)
        return found

    def setup_queue(self, index: int, size: int, addresses: tuple[int, int, int], vector: int) -> int:
        """Describes a queue: descriptors, driver area, device area (§4.1.5.1.3); returns the vector that it got."""
        self._common.write(2, Common.QUEUE_SELECT, index)
        if self._common.read(2, Common.QUEUE_ENABLE):
            raise ProtocolError(f"{self._name}: queue {index} is enabled already")
        self._common.write(2, Common.QUEUE_SIZE, size)
        for register, address in zip(
            (Common.QUEUE_DESC, Common.QUEUE_DRIVER, Common.QUEUE_DEVICE), addresses, strict=True
        ):
            self._common.write(4, register, address & 0xFFFFFFFF)
            self._common.write(4, register + 4, address >> 32)
        self._common.write(2, Common.QUEUE_MSIX_VECTOR, vector)
        return self._common.read(2, Common.QUEUE_MSIX_VECTOR)

    def enable_queue(self, index: int) -> None:
        self._common.write(2, Common.QUEUE_SELECT, index)
        self._common.write(2, Common.QUEUE_ENABLE, 1)

    async def reset_queue(self, index: int) -> None:
        """Stops one queue (§2.6.1; RING_RESET was agreed). Raises DeadlineError."""
        if not self._has_reset:
            raise ProtocolError(f"{self._name}: the device offers {Feature.RING_RESET.name} and has no queue_reset")
        self._common.write(2, Common.QUEUE_SELECT, index)
        self._common.write(2, Common.QUEUE_RESET, 1)
        deadline = time.monotonic() + RESET_DEADLINE_S
        while self._still_resetting(index):
            if self.gone():
                raise RemovedError(f"{self._name}: the device is gone")
            if time.monotonic() > deadline:
                raise DeadlineError(f"{self._name}: queue {index} was not reset within {RESET_DEADLINE_S:g} s")
            await asyncio.sleep(POLL_S)

    def _still_resetting(self, index: int) -> bool:
        self._common.write(2, Common.QUEUE_SELECT, index)  # others may have selected theirs meanwhile
        return bool(self._common.read(2, Common.QUEUE_RESET))

    def doorbell(self, info: QueueInfo) -> int:
        """The address of the register that the queue's index is stored at, to notify the device."""
        return self._notify.address + self._layout.doorbell(info.notify_off)
