"""PCI configuration space as virtio uses it (virtio 1.2 §4.1.2, §4.1.4; PCI Local Bus 3.0 §6.1, §6.7).

These are pure functions of bytes. What a device says is validated before an address is derived from it: a capability
that points beyond its BAR, or is cut short, is ignored or an error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from virtiod.core.errors import NotSupported, ProtocolError
from virtiod.pci.devices import capabilities

COMMAND = 0x04  # of configuration space
CONFIG_BYTES = 256
_VENDOR_SPECIFIC = 0x09
BARS = 6

COMMON_BYTES = 56  # of struct virtio_pci_common_cfg, up to the fields that came with features
COMMON_RESET_BYTES = 60  # with queue_reset


class Command(IntFlag):
    """Bits of the command register."""

    MEMORY = 1 << 1
    MASTER = 1 << 2
    NO_INTX = 1 << 10


class CapType(IntEnum):
    """cfg_type of struct virtio_pci_cap (§4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


class Common(IntEnum):
    """Offsets in struct virtio_pci_common_cfg (§4.1.4.3)."""

    DEVICE_FEATURE_SELECT = 0
    DEVICE_FEATURE = 4
    DRIVER_FEATURE_SELECT = 8
    DRIVER_FEATURE = 12
    CONFIG_MSIX_VECTOR = 16
    NUM_QUEUES = 18
    DEVICE_STATUS = 20
    CONFIG_GENERATION = 21
    QUEUE_SELECT = 22
    QUEUE_SIZE = 24
    QUEUE_MSIX_VECTOR = 26
    QUEUE_ENABLE = 28
    QUEUE_NOTIFY_OFF = 30
    QUEUE_DESC = 32
    QUEUE_DRIVER = 40
    QUEUE_DEVICE = 48
    QUEUE_RESET = 58


GONE = 0xFF  # each byte of any register of a device that is gone
NO_VECTOR = 0xFFFF  # §4.1.5.1.2
ISR_CONFIG = 2  # §4.1.4.5

# Widths of the fields of a device's own configuration: each is read by one access (§4.1.3.1), 64 bits by two.
CONFIG_FIELDS: Mapping[str, tuple[int, ...]] = {
    "blk": (4, 4, 4, 4, 2, 1, 1, 4, 1, 1, 2, 4, 1, 1, 2, 4, 4, 4, 4, 4, 1, 1, 1, 1),  # §5.2.4
    "scsi": (4, 4, 4, 4, 4, 4, 4, 2, 2, 4),  # §5.6.4
}


class Place(NamedTuple):
    """A part of a BAR, in bytes."""

    bar: int
    offset: int
    length: int


class VirtioCap(NamedTuple):
    """struct virtio_pci_cap (§4.1.4); multiplier is that of NOTIFY, 0 for others."""

    type: int
    place: Place
    multiplier: int = 0


@dataclass(frozen=True)
class Layout:
    """Where a device has its structures."""

    common: Place
    notify: Place
    notify_multiplier: int
    isr: Place
    device: Place | None

    def doorbell(self, notify_off: int) -> int:
        """The offset (bytes) in `notify` at which a queue is notified (§4.1.4.4). Raises ProtocolError."""
        offset = notify_off * self.notify_multiplier
        if offset + 2 > self.notify.length:
            raise ProtocolError(f"queue_notify_off {notify_off} is beyond the device's notifications")
        return offset


def virtio_caps(config: bytes) -> Iterator[VirtioCap]:
    """The device's virtio capabilities, in order; those that are cut short or name no BAR are left out (§4.1.4.1)."""
    for kind, at in capabilities(config):
        if kind != _VENDOR_SPECIFIC or at + 16 > len(config) or config[at + 2] < 16:
            continue
        length, cfg_type, bar = config[at + 2 : at + 5]
        offset, size = struct.unpack_from("<II", config, at + 8)
        multiplier = 0
        if cfg_type == CapType.NOTIFY:
            if length < 20 or at + 20 > len(config):
                continue
            multiplier = struct.unpack_from("<I", config, at + 16)[0]
        if bar < BARS:
            yield VirtioCap(cfg_type, Place(bar, offset, size), multiplier)


def layout(config: bytes, bars: Mapping[int, int]) -> Layout:
    """Where the structures are. `bars`: the size (bytes) of each BAR that can be mapped. Of several capabilities of a
    type the first that is usable counts (§4.1.4.1). Raises NotSupported for a legacy device, ProtocolError."""
    caps = list(virtio_caps(config))
    if not any(cap.type == CapType.COMMON for cap in caps):
        raise NotSupported(
            "the device has the legacy interface only (virtio 0.9): start it with the modern one, in QEMU by "
            "disable-modern=off"
        )
    common = _first(caps, CapType.COMMON, bars, COMMON_BYTES, 4)
    notify = _first(caps, CapType.NOTIFY, bars, 2, 2)
    isr = _first(caps, CapType.ISR, bars, 1, 1)
    if common is None or notify is None or isr is None:
        found = {"common": common, "notify": notify, "ISR": isr}
        missing = " and ".join(name for name, cap in found.items() if cap is None)
        raise ProtocolError(f"the device has no usable {missing} structure in its BARs ({_sizes(bars)})")
    device = _first(caps, CapType.DEVICE, bars, 1, 4)
    return Layout(common.place, notify.place, notify.multiplier, isr.place, device.place if device else None)


def _first(caps: list[VirtioCap], kind: CapType, bars: Mapping[int, int], least: int, align: int) -> VirtioCap | None:
    for cap in caps:
        bar, offset, length = cap.place
        fits = offset + length <= bars.get(bar, 0) and length >= least and offset % align == 0
        # §4.1.4.4.1: the multiplier is an even power of two, or 0
        if cap.type == kind and fits and not cap.multiplier & (cap.multiplier - 1 | 1):
            return cap
    return None


def _sizes(bars: Mapping[int, int]) -> str:
    return ", ".join(f"{bar}: {size} bytes" for bar, size in sorted(bars.items())) or "none can be mapped"


def command(before: int, dma: bool) -> int:
    """The command register's value for a device that answers at its registers and raises no INTx (PCI 3.0 §6.2.2)."""
    value = before | Command.MEMORY | Command.NO_INTX | Command.MASTER
    return value if dma else value - Command.MASTER
