"""What owning a PCI device gives: its configuration space, its registers, DMA and interrupts.

vfio.py and sysfs.py implement this interface; the client and the transport use nothing else to reach a device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from virtiod.core.errors import DeviceError
from virtiod.core.memory import Translation
from virtiod.transports.pci.wire import Place


class Window(Protocol):
    """Mapped registers: each call is exactly one access of `width` bytes (1, 2 or 4), at a multiple of it."""

    def read(self, width: int, offset: int) -> int: ...
    def write(self, width: int, offset: int, value: int) -> None: ...
    @property
    def address(self) -> int:
        """The address that the first of them is mapped at."""

    @property
    def lost(self) -> bool:
        """Whether an access found that the registers are gone."""


class Access(ABC):
    """A device from open to close(). Nothing here waits for the device but function_reset()."""

    # The device is to be removed, or was (RemovedError), or it reported an error. Called on the event loop.
    on_lost: Callable[[DeviceError], None] | None = None

    @abstractmethod
    def config(self) -> bytes:
        """The first 256 bytes of configuration space."""

    @abstractmethod
    def bars(self) -> dict[int, int]:
        """The size (bytes) of each BAR that can be mapped."""

    @abstractmethod
    def window(self, place: Place) -> Window:
        """Maps a part of a BAR, until close()."""

    @property
    @abstractmethod
    def translates(self) -> bool:
        """Whether an IOMMU stands between the device and memory: a device that bypasses it must not be used."""

    @abstractmethod
    async def share_memory(self) -> None:
        """Makes all of DMA memory reachable for the device; when called again, also what it grew by."""

    @abstractmethod
    def translation(self) -> Translation:
        """How the device addresses DMA memory. Known before share_memory(), true after it."""

    @abstractmethod
    def interrupts(self) -> int:
        """How many MSI-X vectors can be used; 0 when the device can't interrupt."""

    @abstractmethod
    def connect_interrupts(self, fds: Sequence[int]) -> None:
        """Has vector n signal the eventfd fds[n]; without fds, none signals any more."""

    @abstractmethod
    def enable(self, dma: bool) -> None:
        """Has the device answer at its registers and, with dma, reach memory."""

    @abstractmethod
    async def function_reset(self) -> bool:
        """Resets the whole function from outside, by FLR or another way; returns whether that could be done."""

    @abstractmethod
    async def close(self) -> None:
        """Releases the device, which was reset before, or had DMA disabled. Idempotent."""
