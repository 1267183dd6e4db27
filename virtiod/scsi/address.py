"""Targets and LUNs in the 8 bytes of virtio-scsi requests and events (virtio 1.2 §5.6.6.1)."""

from __future__ import annotations

MAX_TARGET = 255
MAX_LUN = 16383
FLAT_SPACE = 0x40  # SAM-5 §4.7.7.3


def pack(target: int, lun: int) -> bytes:
    """The 8 bytes of a unit: 1, the target, a single level LUN by flat space addressing (SAM-5 §4.7.7.3), zeroes."""
    if not 0 <= target <= MAX_TARGET or not 0 <= lun <= MAX_LUN:
        raise ValueError(f"target {target}, LUN {lun}")
    return bytes([1, target, FLAT_SPACE | lun >> 8, lun & 0xFF, 0, 0, 0, 0])


def pack_listed(target: int, lun: int) -> bytes:
    """The 8 bytes of a unit by peripheral device addressing below LUN 256, as REPORT LUNS lists them (SAM-5 §4.7)."""
    return bytes([1, target, 0 if lun < 256 else FLAT_SPACE | lun >> 8, lun & 0xFF, 0, 0, 0, 0])


def unpack(address: bytes) -> tuple[int, int] | None:
    """(target, LUN) of 8 bytes; None for bytes that are no address of a unit."""
    if len(address) != 8 or address[0] != 1 or any(address[4:]) or address[2] & 0x80:
        return None
    return address[1], (address[2] & 0x3F) << 8 | address[3]
