"""List virtio PCI devices, and move them between the kernel and virtiod."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from rpc_client.tables import table
from virtiod.core.errors import VirtiodError
from virtiod.pci import checks, ownership
from virtiod.pci.devices import PciDevice, scan
from virtiod.pci.disks import Disk, disks_of
from virtiod.pci.host import Host

__all__ = ["add_arguments", "run"]

HEADER = ("ADDRESS", "TYPE", "DRIVER", "IOMMU GROUP", "DISKS", "STATUS")
READY = "ready"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show each virtio device, its driver, and what prevents its use")
    listing.add_argument("--json", action="store_true", help="print JSON, which tells more")
    binding = actions.add_parser("bind", help="take a device from the kernel, so that virtiod can attach it")
    binding.add_argument("address", metavar="ADDRESS", help="address of the device, for example 0000:00:05.0")
    unbinding = actions.add_parser("unbind", help="give a device back to the kernel's driver")
    unbinding.add_argument("address", metavar="ADDRESS", help="address of the device, for example 0000:00:05.0")


def run(args: argparse.Namespace, host: Host | None = None) -> int:
    """Runs an action; returns 0, or raises VirtiodError, which says what prevents it."""
    host = host or Host()
    if args.action == "list":
        devices = [describe(device, host) for device in scan(host)]
        print(json.dumps(devices, indent=2) if args.json else _table(devices))
    elif args.action == "bind":
        device = ownership.bind(args.address, host)
        print(f"{device.address} is bound to {device.driver or 'no driver'}: {_to_use(device, host)}")
    else:
        device = ownership.unbind(args.address, host)
        disks = ", ".join(disk.name for disk in disks_of(device, host))
        print(f"{device.address} is bound to {device.driver}{f': {disks}' if disks else ''}")
    return 0


def describe(device: PciDevice, host: Host) -> dict[str, Any]:
    """Describes a device for people and programs; "to_use" is "ready", or what prevents its use."""
    disks = disks_of(device, host)
    return {
        "address": device.address,
        "vendor": f"{device.vendor:04x}",
        "device": f"{device.device:04x}",
        "type": device.virtio_type,
        "driver": device.driver,
        "iommu_group": device.iommu_group,
        "iommu_type": device.iommu_type,
        "iommu_peers": list(device.iommu_peers),
        "numa_node": device.numa_node,
        "disks": [{"name": disk.name, "uses": [use.what for use in disk.uses]} for disk in disks],
        "way": checks.way_of(device) if device.virtio_type in checks.STORAGE else None,
        "to_use": _to_use(device, host, disks),
    }


def _to_use(device: PciDevice, host: Host, disks: list[Disk] | None = None) -> str:
    return next((str(reason) for reason in _reasons(device, host, disks or [])), READY)


def _reasons(device: PciDevice, host: Host, disks: list[Disk]) -> Iterator[VirtiodError]:
    """The reasons that prevent its use, in the order in which they must be solved."""
    try:
        yield from checks.unusable(device, host)
    except VirtiodError as error:  # it was removed, or its configuration can't be read
        yield error
    yield from checks.in_use(device, disks)
    yield from checks.bound_elsewhere(device, allow_unbind=False)
    yield from checks.unviable_group(device, host)


def _table(devices: list[dict[str, Any]]) -> str:
    if not devices:
        return "no virtio PCI devices"
    return table(HEADER, [_row(device) for device in devices])


def _row(device: dict[str, Any]) -> tuple[str, ...]:
    address = device["address"]
    group = "-" if device["iommu_group"] is None else f"{device['iommu_group']} ({device['iommu_type']})"
    disks = ", ".join(f"{disk['name']} (in use)" if disk["uses"] else disk["name"] for disk in device["disks"])
    to_use = device["to_use"].removeprefix(address).lstrip(": ")
    return (address, device["type"], device["driver"] or "-", group, disks or "-", to_use)
