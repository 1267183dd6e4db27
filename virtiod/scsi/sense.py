"""Sense data: what went wrong (SPC-4 §4.5), in words where it is common (SPC-4 annex F)."""

from __future__ import annotations

from dataclasses import dataclass

NO_SENSE, RECOVERED, NOT_READY, MEDIUM, HARDWARE, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = range(8)
ABORTED_COMMAND = 0xB

KEYS = (
    "no sense", "recovered error", "not ready", "medium error", "hardware error", "illegal request", "unit attention",
    "data protect", "blank check", "vendor specific", "copy aborted", "aborted command", "reserved",
    "volume overflow", "miscompare", "completed",
)  # fmt: skip
CODES = {
    0x0400: "not ready, cause not reportable",
    0x0401: "becoming ready",
    0x0402: "initializing command required",
    0x0404: "format in progress",
    0x0500: "logical unit does not respond to selection",
    0x0800: "logical unit communication failure",
    0x0C00: "write error",
    0x0C02: "write error, auto reallocation failed",
    0x1000: "ID CRC or ECC error",
    0x1100: "unrecovered read error",
    0x1104: "unrecovered read error, auto reallocate failed",
    0x1400: "recorded entity not found",
    0x1A00: "parameter list length error",
    0x2000: "invalid command operation code",
    0x2100: "logical block address out of range",
    0x2400: "invalid field in CDB",
    0x2500: "logical unit not supported",
    0x2600: "invalid field in parameter list",
    0x2700: "write protected",
    0x2707: "space allocation failed, write protected",
    0x2800: "not ready to ready change",
    0x2900: "power on, reset or bus device reset occurred",
    0x2901: "power on occurred",
    0x2902: "SCSI bus reset occurred",
    0x2903: "bus device reset function occurred",
    0x2904: "device internal reset",
    0x2907: "I_T nexus loss occurred",
    0x2A01: "mode parameters changed",
    0x2A09: "capacity data has changed",
    0x2F00: "commands cleared by another initiator",
    0x3100: "medium format corrupted",
    0x3A00: "medium not present",
    0x3F03: "inquiry data has changed",
    0x3F0E: "reported LUNs data has changed",
    0x4400: "internal target failure",
    0x4700: "SCSI parity error",
    0x4900: "invalid message error",
    0x4B00: "data phase error",
    0x5500: "system resource failure",
    0x5D00: "failure prediction threshold exceeded",
}


@dataclass(frozen=True)
class Sense:
    """asc: additional sense code, ascq: its qualifier; both 0 when not given."""

    key: int
    asc: int = 0
    ascq: int = 0

    @property
    def code(self) -> int:
        """asc and ascq in one number."""
        return self.asc << 8 | self.ascq

    def __str__(self) -> str:
        """As in "medium error: unrecovered read error (3/11/00)"."""
        what = CODES.get(self.code) or CODES.get(self.asc << 8)
        words = f"{KEYS[self.key]}: {what}" if what and self.code else KEYS[self.key]
        return f"{words} ({self.key:x}/{self.asc:02x}/{self.ascq:02x})"


def parse(data: bytes) -> Sense | None:
    """Fixed and descriptor format, current and deferred; None for anything else."""
    if len(data) < 3:
        return None
    kind = data[0] & 0x7F
    if kind in {0x70, 0x71}:
        if len(data) >= 14 and data[7] >= 6:
            return Sense(data[2] & 0xF, data[12], data[13])
        return Sense(data[2] & 0xF)
    if kind in {0x72, 0x73} and len(data) >= 4:
        return Sense(data[1] & 0xF, data[2], data[3])
    return None
