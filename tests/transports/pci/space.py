"""Configuration spaces, as bytes."""

from __future__ import annotations

import struct

# cfg_type, BAR, offset, length (virtio 1.2 §4.1.4), as QEMU lays its devices out
COMMON, NOTIFY, ISR, DEVICE, PCI = 1, 2, 3, 4, 5
QEMU = ((COMMON, 4, 0, 0x1000), (ISR, 4, 0x1000, 0x1000), (DEVICE, 4, 0x2000, 0x1000), (NOTIFY, 4, 0x3000, 0x1000))
BARS = {1: 0x1000, 4: 0x4000}


def virtio_cap(kind: int, bar: int, offset: int, length: int, multiplier: int = 4) -> bytes:
    """One capability, its link left open."""
    size = 20 if kind == NOTIFY else 16
    cap = struct.pack("<BBBBBBHII", 9, 0, size, kind, bar, 0, 0, offset, length)
    return cap + struct.pack("<I", multiplier) if kind == NOTIFY else cap


def config_space(caps: list[bytes], device: int = 0x1042) -> bytes:
    """256 bytes with these capabilities, linked in order."""
    data = bytearray(256)
    struct.pack_into("<HHHH", data, 0, 0x1AF4, device, 0, 0x10)
    link, at = 0x34, 0x40
    for cap in caps:
        data[link] = at
        data[at : at + len(cap)] = cap
        link, at = at + 1, at + 24
    return bytes(data)


def usual() -> bytes:
    return config_space([virtio_cap(*cap) for cap in QEMU])
