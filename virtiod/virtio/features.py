"""Virtio feature bits and their names (virtio 1.2 §5.2.3, §5.6.3, §6)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Literal

DevType = Literal["blk", "scsi"]  # the kinds of devices that virtiod drives


class Feature(IntEnum):
    """Feature bits that any device may have (virtio 1.2 §6)."""

    NOTIFY_ON_EMPTY = 24
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40


class BlkFeature(IntEnum):
    """Feature bits of a block device (virtio 1.2 §5.2.3)."""

    BARRIER = 0
    SIZE_MAX = 1
    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    SCSI = 7
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14
    LIFETIME = 15
    SECURE_ERASE = 16


class ScsiFeature(IntEnum):
    """Feature bits of a SCSI host (virtio 1.2 §5.6.3)."""

    INOUT = 0
    HOTPLUG = 1
    CHANGE = 2
    T10_PI = 3


DEVICE_FEATURES: Mapping[str, type[IntEnum]] = {"blk": BlkFeature, "scsi": ScsiFeature}


def feature_names(features: int, dev_type: str | None = None) -> str:
    """A text of feature bits, as "0x100000040 (BLK_SIZE, VERSION_1)". Unknown bits are numbers."""
    names: dict[int, str] = {feature.value: feature.name for feature in Feature}
    if dev_type is not None:
        names.update((feature.value, feature.name) for feature in DEVICE_FEATURES[dev_type])
    bits = [bit for bit in range(features.bit_length()) if features >> bit & 1]
    text = ", ".join(names.get(bit, str(bit)) for bit in bits)
    return f"{features:#x} ({text})" if text else f"{features:#x}"


_ONLY_BLK = sum(1 << bit for bit in BlkFeature if bit > max(ScsiFeature))
_SCSI = 1 << ScsiFeature.HOTPLUG | 1 << ScsiFeature.CHANGE


def likely_kind(features: int) -> DevType | None:
    """What kind of device offers these features, as vhost-user does not tell it; None if they leave that open.

    Bits from 4 on are of block devices only, and each block device in use offers some.
    """
    if features & _ONLY_BLK:
        return "blk"
    return "scsi" if features & _SCSI else None
