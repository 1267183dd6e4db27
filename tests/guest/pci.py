"""The guest's PCI devices, for its tests: where they are, who has them, and the way back to the kernel's driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest.devices import DEVICES
from tests.peers import wait_until
from virtiod.pci import ownership
from virtiod.pci.devices import PciDevice, find, scan
from virtiod.pci.disks import Disk, disks_of
from virtiod.pci.host import Host


def address_of(name: str) -> str:
    """Of a device on bus 0."""
    (device,) = [device for device in DEVICES if device.name == name]
    assert not device.behind_port
    return f"0000:00:{device.slot:02x}.{device.function}"


def device(name: str) -> PciDevice:
    return find(address_of(name))


def kernel_disks(address: str) -> list[Disk]:
    return disks_of(find(address), Host())


def node_of(address: str) -> Path:
    """The kernel's block device of a virtio-blk controller."""
    wait_until(lambda: kernel_disks(address), f"the kernel's disk at {address}")
    (disk,) = kernel_disks(address)
    return Path("/dev") / disk.name


def addresses() -> set[str]:
    return {device.address for device in scan()}


@contextmanager
def given_back(address: str) -> Iterator[str]:
    """The kernel has the device again in the end."""
    try:
        yield address
    finally:
        ownership.unbind(address)
