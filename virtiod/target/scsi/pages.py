"""What a logical unit of the embedded target says of itself: INQUIRY and MODE SENSE answers (SPC-4, SBC-3)."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from virtiod.scsi.spec import CdbFlag, DesignatorType, ModeFlag, ModePage, Opcode, ProvisioningFlag, VpdPage

VENDOR = "VIRTIOD"
PRODUCT = "TARGET"
REVISION = "0001"
BINARY, ASCII = 1, 2  # code sets of designators, SPC-4 §7.8.6


class Limits(NamedTuple):
    """In blocks, but max_descriptors: of one UNMAP."""

    max_transfer: int
    max_unmap: int
    max_descriptors: int
    max_same: int


class Identity(NamedTuple):
    """What a unit is, and what its pages are made of."""

    serial: str
    block_size: int
    read_only: bool
    write_cache: bool
    limits: Limits


def pages(unit: Identity) -> list[tuple[int, int, int, bytes]]:
    """(operation code, EVPD, page or byte 2 of the CDB, answer) of all that the unit answers."""
    vpd = {
        VpdPage.UNIT_SERIAL_NUMBER: unit.serial.encode("ascii"),
        VpdPage.DEVICE_IDENTIFICATION: _designators(unit),
        VpdPage.BLOCK_LIMITS: _limits(unit),
        VpdPage.BLOCK_DEVICE_CHARACTERISTICS: _characteristics(),
        VpdPage.LOGICAL_BLOCK_PROVISIONING: _thin(),
    }
    vpd[VpdPage.SUPPORTED_PAGES] = bytes(sorted({VpdPage.SUPPORTED_PAGES, *vpd}))
    return [
        (Opcode.INQUIRY, 0, 0, _inquiry()),
        *((Opcode.INQUIRY, CdbFlag.EVPD, code, _page(code, data)) for code, data in vpd.items()),
        *_modes(unit),
    ]


def _inquiry() -> bytes:
    """SPC-4 §6.6.2: a disk that conforms to SPC-4, with command queuing and version descriptors SAM-5, SPC-4, SBC-3."""
    head = bytes([0, 0, 6, 2, 91, 0, 0, 2])
    names = VENDOR.ljust(8) + PRODUCT.ljust(16) + REVISION.ljust(4)
    return head + names.encode() + bytes(22) + struct.pack(">3H", 0x00A0, 0x0460, 0x04C0) + bytes(32)


def _page(code: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0, code, len(data)) + data


def naa(serial: str) -> bytes:
    """A locally assigned NAA identifier (SPC-4 §7.8.6.6.4), the same for the same serial."""
    digest = hashlib.sha256(serial.encode()).digest()[:8]
    return bytes([0x30 | digest[0] & 0x0F]) + digest[1:]


def _designators(unit: Identity) -> bytes:
    """SPC-4 §7.8.6: of the logical unit, binary NAA and ASCII T10 vendor identification."""
    text = VENDOR.ljust(8).encode() + unit.serial.encode("ascii")
    return (
        bytes([BINARY, DesignatorType.NAA, 0, 8])
        + naa(unit.serial)
        + bytes([ASCII, DesignatorType.T10_VENDOR_ID, 0, len(text)])
        + text
    )


def _limits(unit: Identity) -> bytes:
    """SBC-3 §6.6.4. WSNZ is set; transfers have no granularity; unmapping has that of a block."""
    data = struct.pack(
        ">BBHIIIIIIIQ", 1, 0, 0, unit.limits.max_transfer, unit.limits.max_transfer, 0,
        unit.limits.max_unmap, unit.limits.max_descriptors, 1, 0, unit.limits.max_same,
    )  # fmt: skip
    return data.ljust(60, b"\0")


def _characteristics() -> bytes:
    """SBC-3 §6.6.2: the medium does not turn."""
    return struct.pack(">H", 1).ljust(60, b"\0")


def _thin() -> bytes:
    """SBC-3 §6.6.6: LBPU, LBPWS, LBPWS10, LBPRZ; provisioned thinly."""
    flags = ProvisioningFlag.LBPU | ProvisioningFlag.LBPWS | ProvisioningFlag.LBPWS10 | ProvisioningFlag.LBPRZ
    return bytes([0, flags, 2, 0])


def _modes(unit: Identity) -> list[tuple[int, int, int, bytes]]:
    """The caching page (SBC-3 §6.5.5) for each page control but "saved"; nothing can be changed."""
    device = ModeFlag.DPOFUA | (ModeFlag.WP if unit.read_only else 0)
    found: list[tuple[int, int, int, bytes]] = []
    for control in (0, 1, 2):
        enabled = ModeFlag.WCE if unit.write_cache and control != 1 else 0
        page = bytes([ModePage.CACHING, 18, enabled]).ljust(20, b"\0")
        for code in ModePage:
            at = control << 6 | code
            found.append((Opcode.MODE_SENSE_6, 0, at, bytes([3 + len(page), 0, device, 0]) + page))
            found.append(
                (Opcode.MODE_SENSE_10, 0, at, struct.pack(">HBBBBH", 6 + len(page), 0, device, 0, 0, 0) + page)
            )
    return found
