"""Virtio PCI devices as sysfs shows them (virtio 1.2 §4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.pci.host import Host, entries, link, read

VIRTIO_VENDOR = 0x1AF4
FIRST_TRANSITIONAL = 0x1000  # §4.1.2.1: up to 0x103f; the subsystem's ID is the type
FIRST_MODERN = 0x1040  # the type is added to it
LAST_MODERN = 0x107F
BRIDGE_CLASS = 0x06
CAP_VENDOR = 0x09
VIRTIO_CAP_COMMON = 1  # §4.1.4: type of a capability
HEADER_SIZE = 64  # all of the configuration that those without privileges may read

_ADDRESS = re.compile(
    r"(?:([0-9a-f]{1,8})[:.])?([0-9a-f]{1,2})[:.]([01]?[0-9a-f])\.([0-7])",
    re.IGNORECASE,
)

# §5, those that QEMU has over PCI
TYPES = {
    1: "net",
    2: "blk",
    3: "console",
    4: "rng",
    5: "balloon",
    8: "scsi",
    9: "9p",
    16: "gpu",
    18: "input",
    19: "vsock",
    20: "crypto",
    23: "iommu",
    24: "mem",
    25: "sound",
    26: "fs",
    27: "pmem",
}


@dataclass(frozen=True)
class PciDevice:
    """A device as it was when it was read. iommu_peers: the group's other devices, without bridges."""

    address: str
    vendor: int
    device: int
    virtio_type: str  # "blk", "scsi", ..., a number for one that is not known, "" if it is not virtio
    pci_class: int
    driver: str | None
    iommu_group: int | None
    iommu_type: str | None  # "identity", "DMA", "DMA-FQ", ...
    iommu_peers: tuple[str, ...]
    numa_node: int | None
    path: Path

    def config(self) -> bytes:
        """The configuration space: 256 bytes or 4 KiB; only the first 64 for those who may not read more."""
        try:
            return (self.path / "config").read_bytes()
        except OSError as error:
            raise NotFound(f"{self.address}: read its configuration: {error.strerror}", error.errno) from error

    @property
    def translated(self) -> bool:
        """Whether an IOMMU stands between the device and memory, so that it can't be given physical addresses."""
        return self.iommu_group is not None and self.iommu_type != "identity"


def is_address(text: str) -> bool:
    """Whether it has the form of a PCI address."""
    return _ADDRESS.fullmatch(text) is not None


def parse_address(text: str) -> str:
    """ "0000:00:05.0" for that or "00:05.0". Raises InvalidArgument."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise InvalidArgument(f"Invalid PCI address '{text}'")
    domain, bus, device, function = (int(part or "0", 16) for part in match.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function}"


def find(address: str, host: Host | None = None) -> PciDevice:
    """The device at an address. Raises InvalidArgument, NotFound."""
    host = host or Host()
    address = parse_address(address)
    path = host.sys / "bus/pci/devices" / address
    if not path.exists():
        raise NotFound(f"{address}: there is no such PCI device; `virtiod pci list` shows those that can be used")
    return _look(host, address, path)


def scan(host: Host | None = None) -> list[PciDevice]:
    """All virtio devices, by address."""
    host = host or Host()
    found = []
    for path in entries(host.sys / "bus/pci/devices"):
        if _number(path / "vendor") == VIRTIO_VENDOR:
            device = _look(host, path.name, path)
            if device.virtio_type:
                found.append(device)
    return found


def capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """The identifier and offset of each capability within these bytes (PCI 3.0 §6.7)."""
    if len(config) <= HEADER_SIZE or not config[0x06] & 0x10:
        return
    offset, seen = config[0x34] & 0xFC, 0
    while HEADER_SIZE <= offset < len(config) - 3 and seen < 48:  # no more fit, so a circular list ends
        yield config[offset], offset
        offset, seen = config[offset + 1] & 0xFC, seen + 1


def is_legacy_only(config: bytes) -> bool:
    """Whether the device lacks the capability of the modern interface. False where the bytes don't show it."""
    if len(config) <= HEADER_SIZE:
        return False
    found = capabilities(config)
    return not any(cap == CAP_VENDOR and config[at + 3] == VIRTIO_CAP_COMMON for cap, at in found)


def _look(host: Host, address: str, path: Path) -> PciDevice:
    vendor, device = _number(path / "vendor"), _number(path / "device")
    group = link(path / "iommu_group")
    groups = host.sys / "kernel/iommu_groups"
    numa = read(path / "numa_node")
    return PciDevice(
        address=address,
        vendor=vendor,
        device=device,
        virtio_type=_virtio_type(vendor, device, _number(path / "subsystem_device")),
        pci_class=_number(path / "class"),
        driver=link(path / "driver"),
        iommu_group=int(group) if group and group.isdecimal() else None,
        iommu_type=read(groups / group / "type") or None if group else None,
        iommu_peers=tuple(_peers(groups / group / "devices", address)) if group else (),
        numa_node=int(numa) if numa.isdecimal() else None,
        path=path,
    )


def _peers(folder: Path, address: str) -> Iterator[str]:
    for peer in entries(folder):
        if peer.name != address and _number(peer / "class") >> 16 != BRIDGE_CLASS:
            yield peer.name


def _virtio_type(vendor: int, device: int, subsystem: int) -> str:
    if vendor != VIRTIO_VENDOR or not FIRST_TRANSITIONAL <= device <= LAST_MODERN:
        return ""
    number = subsystem if device < FIRST_MODERN else device - FIRST_MODERN
    return TYPES.get(number, str(number))


def _number(path: Path) -> int:
    try:
        return int(read(path), 16)
    except ValueError:
        return 0
