"""What the PCI devices of this process share: the memory that they all reach, and their owners."""

from __future__ import annotations

from virtiod.core.memory import DmaMemory
from virtiod.core.physical import PhysicalPages
from virtiod.pci import ownership
from virtiod.pci.ownership import Owned
from virtiod.transports.pci.access import Access
from virtiod.transports.pci.sysfs import SysfsAccess
from virtiod.transports.pci.vfio import Container, VfioAccess


class PciContext:
    """allow_unbind: devices may be taken from the kernel's driver."""

    def __init__(self, memory: DmaMemory, allow_unbind: bool) -> None:
        self._memory = memory
        self._allow_unbind = allow_unbind
        self._container = Container(memory)
        self._pages: PhysicalPages | None = None

    async def take(self, address: str, dev_type: str) -> Owned:
        """Takes a device. Raises VirtiodError, which says what to do."""
        return await ownership.take(address, self._allow_unbind, dev_type=dev_type, page_size=self._memory.page_size)

    async def open(self, owned: Owned) -> Access:
        """Opens a device that is owned."""
        if owned.way == "vfio":
            return await VfioAccess.open(owned.device, self._container)
        if self._pages is None:
            self._pages = PhysicalPages(self._memory)
        return SysfsAccess(owned.device, self._pages)
