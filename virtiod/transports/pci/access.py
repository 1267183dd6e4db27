"""What owning a PCI device gives: its configuration space, its registers, DMA and interrupts.

vfio.py and sysfs.py implement it; the client and the transport know nothing else of how a device is reached.
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
        """Where the first of them is mapped."""

    @property
    def lost(self) -> bool:
        """Whether an access found that the registers are gone."""


class Access(ABC):
    """A device from open to close(). Nothing here waits for the device but function_reset()."""

    # The device is to be removed, or was (RemovedError), or it reported an error. Called on the event loop.
    on_lost: Callable[[DeviceError], None] | None = None

    @abstractmethod
    def config(self) -> bytes:
        """Configuration space, 256 bytes of it."""

    @abstractmethod
    def bars(self) -> dict[int, int]:
        """The size of each BAR that can be mapped."""

    @abstractmethod
    def window(self, place: Place) -> Window:
        """Map a part of a BAR, until close()."""

    @property
    @abstractmethod
    def translates(self) -> bool:
        """Whether an IOMMU stands between the device and memory: a device that goes round it must not be used."""

    @abstractmethod
    async def share_memory(self) -> None:
        """Make all of DMA memory reachable for the device; what grew too, when called again."""

    @abstractmethod
    def translation(self) -> Translation:
        """How the device addresses DMA memory. Known before share_memory(), true after it."""

    @abstractmethod
    def interrupts(self) -> int:
        """How many MSI-X vectors can be used; 0 when the device can't interrupt."""

    @abstractmethod
    def connect_interrupts(self, fds: Sequence[int]) -> None:
        """Have vector n signal the eventfd fds[n]; none: stop."""

    @abstractmethod
    def enable(self, dma: bool) -> None:
        """Have the device answer at its registers and, with dma, reach memory."""

    @abstractmethod
    async def function_reset(self) -> bool:
        """Reset the whole function from outside (FLR or what there is); whether that could be done."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it. The device was reset, or DMA disabled, before. Idempotent."""
