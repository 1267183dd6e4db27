"""Parses and checks what units answer (SPC-4, SBC-4).

An answer that is too short to mean anything raises ProtocolError; one that ends early is read as far as it goes.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from dataclasses import dataclass

from virtiod.core.counted import counted
from virtiod.core.errors import InvalidArgument, ProtocolError
from virtiod.core.names import clean
from virtiod.core.sizes import check_geometry
from virtiod.scsi.spec import (
    CapacityFlag,
    DesignatorType,
    ModeFlag,
    ModePage,
    PeripheralQualifier,
    PeripheralType,
    ProvisioningFlag,
    VpdPage,
)


def _need(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise ProtocolError(f"{what} of {counted(len(data), 'byte')}, at least {size} are needed")


def _text(data: bytes) -> str:
    return "".join(chr(c) if 0x20 <= c < 0x7F else " " for c in data).strip()


@dataclass(frozen=True)
class Inquiry:
    """Standard INQUIRY data of a unit (SPC-4 §6.6.2)."""

    qualifier: int
    type: int
    version: int
    vendor: str
    product: str
    revision: str

    @property
    def is_disk(self) -> bool:
        """Whether there is a unit, and it is a disk."""
        return self.qualifier == PeripheralQualifier.CONNECTED and self.type == PeripheralType.DISK


def inquiry(data: bytes) -> Inquiry:
    """Parses standard INQUIRY data (SPC-4 §6.6.2), of which the first 36 bytes are used."""
    _need(data, 5, "INQUIRY data")
    return Inquiry(data[0] >> 5, data[0] & 0x1F, data[2], _text(data[8:16]), _text(data[16:32]), _text(data[32:36]))


def _page(data: bytes, page: int) -> bytes:
    """The body of a VPD page: as many bytes as it says, and at most those present (SPC-4 §7.8)."""
    _need(data, 4, f"VPD page {page:#04x}")
    if data[1] != page:
        raise ProtocolError(f"VPD page {data[1]:#04x} came for {page:#04x}")
    return data[4 : 4 + int.from_bytes(data[2:4], "big")]


def supported_pages(data: bytes) -> frozenset[int]:
    """The codes of the supported VPD pages: VPD page 0x00 (SPC-4 §7.8)."""
    return frozenset(_page(data, VpdPage.SUPPORTED_PAGES))


def serial(data: bytes) -> str:
    """The serial number: VPD page 0x80 (SPC-4 §7.8)."""
    return _text(_page(data, VpdPage.UNIT_SERIAL_NUMBER))


@dataclass(frozen=True)
class Designator:
    """A name of a unit (SPC-4 §7.8.6). type: a DesignatorType."""

    type: int
    value: bytes

    @property
    def name(self) -> str:
        """The name as other systems write it."""
        if self.type == DesignatorType.T10_VENDOR_ID:
            return f"t10.{_text(self.value)}"
        if self.type == DesignatorType.NAME_STRING:
            return clean(self.value.split(b"\0")[0].decode("utf-8", "replace"))
        return f"{_PREFIXES[self.type]}.{self.value.hex()}"


_PREFIXES: dict[int, str] = {DesignatorType.EUI_64: "eui", DesignatorType.NAA: "naa", DesignatorType.UUID: "uuid"}
_LENGTHS: dict[int, set[int]] = {
    DesignatorType.EUI_64: {8, 12, 16},
    DesignatorType.NAA: {8, 16},
    DesignatorType.UUID: {18},
}
_WORTH: tuple[int, ...] = (
    DesignatorType.UUID,
    DesignatorType.NAA,
    DesignatorType.EUI_64,
    DesignatorType.NAME_STRING,
    DesignatorType.T10_VENDOR_ID,
)


def designators(data: bytes) -> list[Designator]:
    """The unit's own designators (not its ports'), the most unique kind first: VPD page 0x83 (SPC-4 §7.8.6)."""
    body = _page(data, VpdPage.DEVICE_IDENTIFICATION)
    found = []
    at = 0
    while at + 4 <= len(body):
        size = body[at + 3]
        value = body[at + 4 : at + 4 + size]
        kind, association = body[at + 1] & 0xF, body[at + 1] >> 4 & 3
        at += 4 + size
        if association or kind not in _WORTH or not value or len(value) < size:
            continue
        if kind in _LENGTHS and size not in _LENGTHS[kind]:
            continue
        if kind == DesignatorType.UUID:
            value = value[2:]  # §7.8.6.12: kind and a reserved byte before the UUID
        found.append(Designator(kind, value))
    return sorted(found, key=lambda d: _WORTH.index(d.type))


def unit_uuid(found: list[Designator]) -> str | None:
    """A UUID that is the same wherever the unit appears; None when it has no such name."""
    if not found:
        return None
    if found[0].type == DesignatorType.UUID:
        return str(uuid.UUID(bytes=found[0].value))
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"scsi:{found[0].type}:{found[0].value.hex()}"))


@dataclass(frozen=True)
class BlockLimits:
    """VPD page 0xB0 (SBC-4 §6.6.4), in blocks; 0: no limit, but of max_unmap: no UNMAP."""

    max_transfer: int = 0
    optimal_transfer: int = 0
    max_unmap: int = 0
    max_unmap_descriptors: int = 0
    max_write_same: int = 0


def block_limits(data: bytes) -> BlockLimits:
    """Parses VPD page 0xB0 (SBC-4 §6.6.4); the fields beyond its end are 0."""
    body = _page(data, VpdPage.BLOCK_LIMITS)[:60].ljust(60, b"\0")
    max_transfer, optimal = struct.unpack_from(">II", body, 4)
    max_unmap, descriptors = struct.unpack_from(">II", body, 16)
    (write_same,) = struct.unpack_from(">Q", body, 32)
    return BlockLimits(max_transfer, optimal, max_unmap, descriptors, write_same)


@dataclass(frozen=True)
class Provisioning:
    """VPD page 0xB2 (SBC-4 §6.6.6): whether UNMAP is supported, and the UNMAP bit of WRITE SAME(16)."""

    unmap: bool = False
    write_same_unmap: bool = False


def provisioning(data: bytes) -> Provisioning:
    """Parses VPD page 0xB2 (SBC-4 §6.6.6)."""
    body = _page(data, VpdPage.LOGICAL_BLOCK_PROVISIONING)
    _need(body, 2, "VPD page 0xb2's body")
    return Provisioning(bool(body[1] & ProvisioningFlag.LBPU), bool(body[1] & ProvisioningFlag.LBPWS))


def luns(data: bytes) -> tuple[list[int], int]:
    """Parses REPORT LUNS data (SPC-4 §6.33): the LUNs in order, and the list's full length in bytes.

    LUNs may be in peripheral or flat addressing. Those that virtio-scsi can't address are left out.
    """
    _need(data, 8, "REPORT LUNS data")
    length = int.from_bytes(data[:4], "big")
    found = set()
    for at in range(8, min(len(data), 8 + length) - 7, 8):
        entry = data[at : at + 8]
        method = entry[0] >> 6
        if any(entry[2:]):
            continue  # of more levels
        if method == 0 and entry[0] == 0:
            found.add(entry[1])  # SAM-5 §4.7.7.2: peripheral device addressing of bus 0
        elif method == 1:
            found.add((entry[0] & 0x3F) << 8 | entry[1])  # §4.7.7.3: flat space addressing
    return sorted(found), 8 + length


@dataclass(frozen=True)
class Capacity:
    """blocks of block_size bytes, which a disk can have; thin: logical block provisioning is enabled."""

    blocks: int
    block_size: int
    physical_exponent: int = 0
    thin: bool = False


def _capacity(blocks: int, block_size: int, physical_exponent: int = 0, thin: bool = False) -> Capacity:
    """Raises ProtocolError for what no disk can be: all sizes and limits of a unit are computed from it."""
    try:
        check_geometry(block_size, blocks)
    except InvalidArgument as error:
        raise ProtocolError(f"READ CAPACITY data: {error}") from None
    return Capacity(blocks, block_size, physical_exponent, thin)


def capacity_10(data: bytes) -> Capacity | None:
    """Parses READ CAPACITY (10) data (SBC-4 §5.20); None when the unit is too large for it."""
    _need(data, 8, "READ CAPACITY(10) data")
    last, size = struct.unpack_from(">II", data)
    return None if last == 0xFFFFFFFF else _capacity(last + 1, size)


def capacity_16(data: bytes) -> Capacity:
    """Parses READ CAPACITY (16) data (SBC-4 §5.21)."""
    _need(data, 12, "READ CAPACITY(16) data")
    last, size = struct.unpack_from(">QI", data)
    rest = data[12:16].ljust(4, b"\0")
    return _capacity(last + 1, size, rest[1] & 0xF, bool(rest[2] & CapacityFlag.LBPME))


@dataclass(frozen=True)
class Mode:
    """MODE SENSE of a disk: write_cache None when the unit has no caching page; fua: READ and WRITE know the bit.

    told: false when the unit failed the command, so that only write_cache is known, by other means.
    """

    write_protected: bool
    fua: bool
    write_cache: bool | None
    told: bool = True

    def after(self, before: Mode) -> Mode:
        """What the unit does not tell is as before."""
        return self if self.told else dataclasses.replace(before, write_cache=self.write_cache)


def mode(data: bytes, long: bool) -> Mode:
    """Parses MODE SENSE (10) data if long, else (6) (SPC-4 §7.5.5); reads the caching page (SBC-4 §6.5.5) of it."""
    header = 8 if long else 4
    _need(data, header, "MODE SENSE data")
    specific = data[3] if long else data[2]
    end = min(len(data), (int.from_bytes(data[:2], "big") + 2) if long else data[0] + 1)
    at = header + (int.from_bytes(data[6:8], "big") if long else data[3])
    write_cache = None
    while at + 3 <= end:
        subpage = bool(data[at] & 0x40)
        if data[at] & 0x3F == ModePage.CACHING and not subpage:
            write_cache = bool(data[at + 2] & ModeFlag.WCE)
            break
        if subpage and at + 4 > end:
            break
        at += 4 + int.from_bytes(data[at + 2 : at + 4], "big") if subpage else 2 + data[at + 1]
    return Mode(bool(specific & ModeFlag.WP), bool(specific & ModeFlag.DPOFUA), write_cache)
