"""What a logical unit of the embedded target says of itself: INQUIRY and MODE SENSE answers (SPC-4, SBC-3)."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

INQUIRY = 0x12
MODE_SENSE_6 = 0x1A
MODE_SENSE_10 = 0x5A
CACHING = 0x08
ALL_PAGES = 0x3F
DPOFUA = 0x10
WRITE_PROTECTED = 0x80
VENDOR = "VIRTIOD"
PRODUCT = "TARGET"
REVISION = "0001"


class Identity(NamedTuple):
    """What pages are made of. Limits in blocks."""

    serial: str
    block_size: int
    read_only: bool
    write_cache: bool
    max_transfer: int
    max_unmap: int
    max_descriptors: int
    max_same: int


def pages(unit: Identity) -> list[tuple[int, int, int, bytes]]:
    """(operation code, EVPD, page or byte 2 of the CDB, answer) of all that the unit answers."""
    vpd = {0x80: _serial(unit), 0x83: _designators(unit), 0xB0: _limits(unit), 0xB1: _characteristics(), 0xB2: _thin()}
    vpd[0x00] = _page(0x00, bytes(sorted({0, *vpd})))
    return [(INQUIRY, 0, 0, _inquiry()), *((INQUIRY, 1, code, data) for code, data in vpd.items()), *_modes(unit)]


def _inquiry() -> bytes:
    """SPC-4 §6.6.2: a disk that conforms to SPC-4, with command queuing and version descriptors SAM-5, SPC-4, SBC-3."""
    head = bytes([0, 0, 6, 2, 91, 0, 0, 2])
    names = VENDOR.ljust(8) + PRODUCT.ljust(16) + REVISION.ljust(4)
    return head + names.encode() + bytes(22) + struct.pack(">3H", 0x00A0, 0x0460, 0x04C0) + bytes(32)


def _page(code: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0, code, len(data)) + data


def _serial(unit: Identity) -> bytes:
    return _page(0x80, unit.serial.encode("ascii"))


def naa(serial: str) -> bytes:
    """A locally assigned NAA identifier (SPC-4 §7.8.6.6.4), the same for the same serial."""
    digest = hashlib.sha256(serial.encode()).digest()[:8]
    return bytes([0x30 | digest[0] & 0x0F]) + digest[1:]


def _designators(unit: Identity) -> bytes:
    """SPC-4 §7.8.6: of the logical unit, binary NAA and ASCII T10 vendor identification."""
    text = VENDOR.ljust(8).encode() + unit.serial.encode("ascii")
    return _page(0x83, bytes([0x01, 0x03, 0, 8]) + naa(unit.serial) + bytes([0x02, 0x01, 0, len(text)]) + text)


def _limits(unit: Identity) -> bytes:
    """SBC-3 §6.6.4. WSNZ is set; transfers have no granularity; unmapping has that of a block."""
    data = struct.pack(
        ">BBHIIIIIIIQ", 1, 0, 0, unit.max_transfer, unit.max_transfer, 0,
        unit.max_unmap, unit.max_descriptors, 1, 0, unit.max_same,
    )  # fmt: skip
    return _page(0xB0, data.ljust(60, b"\0"))


def _characteristics() -> bytes:
    """SBC-3 §6.6.2: the medium does not turn."""
    return _page(0xB1, struct.pack(">H", 1).ljust(60, b"\0"))


def _thin() -> bytes:
    """SBC-3 §6.6.6: LBPU, LBPWS, LBPWS10, LBPRZ; provisioned thinly."""
    return _page(0xB2, bytes([0, 0xE4, 2, 0]))


def _modes(unit: Identity) -> list[tuple[int, int, int, bytes]]:
    """The caching page (SBC-3 §6.5.5) for each page control but "saved"; nothing can be changed."""
    device = DPOFUA | (WRITE_PROTECTED if unit.read_only else 0)
    found = []
    for control in (0, 1, 2):
        enabled = 0x04 if unit.write_cache and control != 1 else 0  # WCE
        page = bytes([CACHING, 18, enabled]).ljust(20, b"\0")
        for code in (CACHING, ALL_PAGES):
            at = control << 6 | code
            found.append((MODE_SENSE_6, 0, at, bytes([3 + len(page), 0, device, 0]) + page))
            found.append((MODE_SENSE_10, 0, at, struct.pack(">HBBBBH", 6 + len(page), 0, device, 0, 0, 0) + page))
    return found
