"""Checks of whether a device can be used: they yield errors that say what to do, and have no side effects."""

from __future__ import annotations

import errno
import mmap
import re
from collections.abc import Iterator

from virtiod.core.errors import Busy, InvalidArgument, NotSupported, VirtiodError
from virtiod.pci.devices import PciDevice, is_legacy_only
from virtiod.pci.disks import Disk
from virtiod.pci.host import Host, link, read
from virtiod.virtio.features import DEVICE_FEATURES

KERNEL_DRIVER = "virtio-pci"
VFIO_DRIVER = "vfio-pci"
UIO_DRIVERS = ("uio_pci_generic", "igb_uio", "pci-stub")  # they do nothing with the device
STORAGE = tuple(DEVICE_FEATURES)


def way_of(device: PciDevice) -> str:
    """ "vfio" where an IOMMU translates, or the operator has chosen it; otherwise "sysfs", with physical addresses."""
    by_choice = device.iommu_group is not None and device.driver == VFIO_DRIVER
    return "vfio" if device.translated or by_choice else "sysfs"


def fitting_drivers(way: str) -> tuple[str | None, ...]:
    """The drivers, or none, with which a device can be used this way."""
    return (VFIO_DRIVER,) if way == "vfio" else (None, *UIO_DRIVERS)


def unusable(device: PciDevice, host: Host, dev_type: str | None = None) -> Iterator[VirtiodError]:
    """Reasons why virtiod can't use this device at all, or not as dev_type ("blk" or "scsi")."""
    address = device.address
    if not device.virtio_type:
        yield NotSupported(f"{address} is no virtio device ({device.vendor:04x}:{device.device:04x})")
        return
    kind = f"virtio-{device.virtio_type}"
    if device.virtio_type not in STORAGE:
        yield NotSupported(f"{address} is a {kind} device: only virtio-blk and virtio-scsi devices can be used")
        return
    if dev_type not in {None, device.virtio_type}:
        yield InvalidArgument(f"{address} is a {kind} device: its dev_type is {device.virtio_type}, not {dev_type}")
    if is_legacy_only(device.config()):
        yield NotSupported(
            f"{address} has the legacy interface only (virtio 0.9): start it with the modern one, in QEMU by "
            "disable-modern=off"
        )
    yield from _forbidden(device, host)


def _forbidden(device: PciDevice, host: Host) -> Iterator[VirtiodError]:
    """Reasons that are in the system: what it lacks or forbids."""
    if way_of(device) == "vfio":
        if not (host.sys / "bus/pci/drivers" / VFIO_DRIVER).is_dir():
            yield NotSupported(
                f"{device.address} is behind an IOMMU and needs the kernel's driver vfio-pci, which is not loaded: "
                "`modprobe vfio-pci`"
            )
        return
    lockdown = re.search(r"\[(integrity|confidentiality)\]", read(host.sys / "kernel/security/lockdown"))
    if lockdown:
        yield NotSupported(
            f"{device.address}: without an IOMMU it needs access that kernel lockdown ({lockdown[1]}) forbids: give "
            "the machine an IOMMU, or boot it without lockdown (which secure boot switches on)",
            errno.EPERM,
        )


def small_pages(device: PciDevice, page_size: int) -> Iterator[VirtiodError]:
    """The reason that DMA memory has no huge pages: physical addresses of others change. An IOMMU needs none."""
    if way_of(device) == "sysfs" and page_size <= mmap.PAGESIZE:
        yield NotSupported(
            f"{device.address}: without an IOMMU, DMA memory must be of huge pages, and there were not enough when it "
            "was made: reserve them (`sysctl vm.nr_hugepages=256`, or hugepages=256 on the kernel's command line) and "
            "start virtiod again",
            errno.ENOMEM,
        )


def unviable_group(device: PciDevice, host: Host) -> Iterator[VirtiodError]:
    """The reason that another device of the IOMMU group has a driver of the kernel: VFIO takes groups as a whole."""
    if way_of(device) != "vfio":
        return
    drivers = {peer: link(host.sys / "bus/pci/devices" / peer / "driver") for peer in device.iommu_peers}
    held = [f"{peer} ({driver})" for peer, driver in drivers.items() if driver not in {None, VFIO_DRIVER, "pci-stub"}]
    if held:
        yield Busy(
            f"{device.address}: its IOMMU group {device.iommu_group} also has {', '.join(held)}, and is given away as "
            "a whole: take those from their drivers too (`virtiod pci bind`), or put the device behind a root port "
            "of its own"
        )


def bound_elsewhere(device: PciDevice, allow_unbind: bool) -> Iterator[VirtiodError]:
    """The reason that the device is bound to a driver that must not be, or was not allowed to be, unbound."""
    if device.driver in fitting_drivers(way_of(device)):
        return
    address, driver = device.address, device.driver
    if driver not in {None, KERNEL_DRIVER, VFIO_DRIVER, *UIO_DRIVERS}:
        yield Busy(
            f"{address} is bound to {driver}, which virtiod does not take devices from: unbind it first "
            f"(`echo {address} > /sys/bus/pci/drivers/{driver}/unbind`)"
        )
    elif driver is not None and not allow_unbind:
        yield Busy(
            f"{address} is bound to {driver}: take it with `virtiod pci bind {address}`, or start virtiod with "
            "--allow-unbind"
        )


def in_use(device: PciDevice, disks: list[Disk]) -> Iterator[VirtiodError]:
    """The reason that a disk of the device is in use."""
    uses = [use.what for disk in disks for use in disk.uses]
    if uses:
        more = f" and {len(uses) - 3} more" if len(uses) > 3 else ""
        yield Busy(f"{device.address}: its disk is in use: {', '.join(uses[:3])}{more}; end that first")
