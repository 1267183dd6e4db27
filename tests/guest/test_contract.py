"""The PCI transport does what every transport does, and controllers do over PCI what they do over any transport."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.contracts.controller import SIZE, ControllerContract, Way
from tests.contracts.transport import Case, TransportContract
from tests.guest.devices import MIB
from tests.guest.inside import Host
from tests.guest.pci import SYSFS, address_of, check_given_back, driver_of, wait_plugged, wait_unplugged
from virtiod.core.memory import DmaMemory
from virtiod.transports.pci.context import PciContext
from virtiod.transports.pci.transport import PciTransport

NUMBERS = itertools.count()
PORT = "hot0"


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


@pytest.fixture
def way(host: Host) -> Iterator[Way]:
    """A new disk, of two queues, in a root port."""
    name = f"contract{next(NUMBERS)}"
    host.plug(name, PORT, SIZE, queues=2)
    address = wait_plugged(PORT)
    node = {"node-name": f"n-{name}"}
    yield Way(
        "pci",
        address,
        2,
        lambda size: host.qmp("block_resize", **node, size=size),
        lambda offset, length: host.read(name, offset, length),
    )
    assert driver_of(address) == "virtio-pci"
    if (SYSFS / address).exists():
        host.unplug(name)
    wait_unplugged(PORT)
    host.forget(name)


class TestPciController(ControllerContract):
    pass
