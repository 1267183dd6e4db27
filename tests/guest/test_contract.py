"""The PCI transport does what every transport does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.devices import MIB
from tests.guest.pci import address_of, check_given_back
from tests.transport_contract import Case, TransportContract
from virtiod.memory import DmaMemory
from virtiod.transports.pci.context import PciContext
from virtiod.transports.pci.transport import PciTransport


@pytest.fixture
def case() -> Iterator[Case]:
    address = address_of("twoqueues")
    memory = DmaMemory(2 * MIB, page_size=2 * MIB)
    context = PciContext(memory, allow_unbind=True)
    yield Case(lambda: PciTransport(address, context, "blk"), memory, queues=2, capacity=16 * MIB)
    check_given_back(address)
    memory.close()


class TestPci(TransportContract):
    pass
