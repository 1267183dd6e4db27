"""How controllers and their disks are shown: SPDK's "virtio" object, and what only one kind of disk has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.core.described import Member


@dataclass(kw_only=True)
class VirtioDescription:
    """A controller's queues, and how it is reached."""

    vq_count: Annotated[int, Member("virtqueues in use, with SCSI's control and event queues")]
    vq_size: Annotated[int, Member("entries of a request queue's ring; 0 until the device was reached")]
    type: Annotated[str, Member('how it is reached: "user" (vhost-user) or "pci-modern"')]
    socket: Annotated[str | UnsetType, Member("path of the vhost-user socket")] = UNSET
    pci_address: Annotated[str | UnsetType, Member("address of the PCI device")] = UNSET


@dataclass(kw_only=True)
class BlkUnit:
    """The disk of a virtio-blk controller."""

    serial: Annotated[str, Member('serial number; "" when the device has none')]


@dataclass(kw_only=True)
class ScsiUnit:
    """A disk of a virtio-scsi controller."""

    target: Annotated[int, Member("SCSI target")]
    lun: Annotated[int, Member("logical unit of the target")]
    vendor: Annotated[str, Member("as INQUIRY tells it")]
    product: Annotated[str, Member("as INQUIRY tells it")]
    revision: Annotated[str, Member("as INQUIRY tells it")]
    serial: Annotated[str, Member('serial number; "" when the unit has none')]
    other_paths: Annotated[
        list[str] | UnsetType,
        Member("other bdevs whose unit has the same unique name, as it is the same one; absent when there are none"),
    ] = UNSET
