"""Sense data, which says how a command failed (SPC-4 §4.5), with texts for common codes (SPC-4 annex F)."""

from __future__ import annotations

from dataclasses import dataclass

import cython
from cython import address, cast
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core.types import BytePtr
from cython.cimports.virtiod.scsi.sense import SenseData, SenseDataPtr
from cython.cimports.virtiod.scsi.spec import DESCRIPTOR_SENSE, FIXED_SENSE, Asc, SenseFormat, SenseKey

from virtiod.scsi import spec

CODES = {
    Asc.NOT_READY_CAUSE_NOT_REPORTABLE: "not ready, cause not reportable",
    Asc.BECOMING_READY: "becoming ready",
    Asc.INITIALIZING_COMMAND_REQUIRED: "initializing command required",
    Asc.FORMAT_IN_PROGRESS: "format in progress",
    Asc.NO_RESPONSE_TO_SELECTION: "logical unit does not respond to selection",
    Asc.COMMUNICATION_FAILURE: "logical unit communication failure",
    Asc.WRITE_ERROR: "write error",
    Asc.WRITE_ERROR_REALLOCATION_FAILED: "write error, auto reallocation failed",
    Asc.CRC_OR_ECC_ERROR: "ID CRC or ECC error",
    Asc.UNRECOVERED_READ_ERROR: "unrecovered read error",
    Asc.READ_ERROR_REALLOCATION_FAILED: "unrecovered read error, auto reallocate failed",
    Asc.RECORDED_ENTITY_NOT_FOUND: "recorded entity not found",
    Asc.PARAMETER_LIST_LENGTH_ERROR: "parameter list length error",
    Asc.INVALID_OPCODE: "invalid command operation code",
    Asc.LBA_OUT_OF_RANGE: "logical block address out of range",
    Asc.INVALID_FIELD_IN_CDB: "invalid field in CDB",
    Asc.LUN_NOT_SUPPORTED: "logical unit not supported",
    Asc.INVALID_FIELD_IN_PARAMETER_LIST: "invalid field in parameter list",
    Asc.WRITE_PROTECTED: "write protected",
    Asc.SPACE_ALLOCATION_FAILED: "space allocation failed, write protected",
    Asc.NOT_READY_TO_READY: "not ready to ready change",
    Asc.POWER_ON_OR_RESET: "power on, reset or bus device reset occurred",
    Asc.POWER_ON: "power on occurred",
    Asc.BUS_RESET: "SCSI bus reset occurred",
    Asc.DEVICE_RESET: "bus device reset function occurred",
    Asc.INTERNAL_RESET: "device internal reset",
    Asc.NEXUS_LOSS: "I_T nexus loss occurred",
    Asc.PARAMETERS_CHANGED: "parameters changed",
    Asc.MODE_PARAMETERS_CHANGED: "mode parameters changed",
    Asc.CAPACITY_CHANGED: "capacity data has changed",
    Asc.CLEARED_BY_ANOTHER_INITIATOR: "commands cleared by another initiator",
    Asc.MEDIUM_FORMAT_CORRUPTED: "medium format corrupted",
    Asc.MEDIUM_NOT_PRESENT: "medium not present",
    Asc.INQUIRY_DATA_CHANGED: "inquiry data has changed",
    Asc.REPORTED_LUNS_CHANGED: "reported LUNs data has changed",
    Asc.INTERNAL_TARGET_FAILURE: "internal target failure",
    Asc.PARITY_ERROR: "SCSI parity error",
    Asc.INVALID_MESSAGE: "invalid message error",
    Asc.DATA_PHASE_ERROR: "data phase error",
    Asc.SYSTEM_RESOURCE_FAILURE: "system resource failure",
    Asc.FAILURE_PREDICTION: "failure prediction threshold exceeded",
}


@dataclass(frozen=True)
class Sense:
    """asc: additional sense code, ascq: its qualifier; both 0 when not given. deferred: of an earlier command."""

    key: int
    asc: int = 0
    ascq: int = 0
    deferred: bool = False

    @property
    def is_success(self) -> bool:
        """The command that it is about was done."""
        return is_success(self.key) != 0

    @property
    def code(self) -> int:
        """asc << 8 | ascq, as Asc has them."""
        return self.asc << 8 | self.ascq

    def __str__(self) -> str:
        """A text such as "medium error: unrecovered read error (3/11/00)", "deferred medium error (3/00/00)"."""
        what = CODES.get(self.code) or CODES.get(self.asc << 8)
        key = ("deferred " if self.deferred else "") + spec.SenseKey(self.key).name.lower().replace("_", " ")
        words = f"{key}: {what}" if what and self.code else key
        return f"{words} ({self.key:x}/{self.asc:02x}/{self.ascq:02x})"


def decode(data: BytePtr, length: uint32_t, found: SenseDataPtr) -> cython.bint:
    format: uint8_t
    if length < 3:
        return False
    format = data[0] & 0x7F
    found.deferred = format & 1
    found.asc = 0
    if format == SenseFormat.FIXED_CURRENT or format == SenseFormat.FIXED_DEFERRED:
        found.key = data[2] & 0x0F
        if length >= 14 and data[7] >= 6:
            found.asc = data[12] << 8 | data[13]
        return True
    if (format == SenseFormat.DESCRIPTOR_CURRENT or format == SenseFormat.DESCRIPTOR_DEFERRED) and length >= 4:
        found.key = data[1] & 0x0F
        found.asc = data[2] << 8 | data[3]
        return True
    return False


def is_success(key: uint8_t) -> cython.bint:
    return key == SenseKey.NO_SENSE or key == SenseKey.RECOVERED_ERROR or key == SenseKey.COMPLETED


def encode(to: BytePtr, key: uint8_t, asc: uint16_t, descriptor: cython.bint) -> uint32_t:
    if descriptor:
        memset(to, 0, DESCRIPTOR_SENSE)
        to[0], to[1] = SenseFormat.DESCRIPTOR_CURRENT, key
        to[2], to[3] = cast(uint8_t, asc >> 8), cast(uint8_t, asc)
        return DESCRIPTOR_SENSE
    memset(to, 0, FIXED_SENSE)
    to[0], to[2], to[7] = SenseFormat.FIXED_CURRENT, key, FIXED_SENSE - 8
    to[12], to[13] = cast(uint8_t, asc >> 8), cast(uint8_t, asc)
    return FIXED_SENSE


def may_be_another(asc: uint16_t) -> cython.bint:
    return may_lose_cache(asc) or asc == Asc.INQUIRY_DATA_CHANGED or asc == Asc.REPORTED_LUNS_CHANGED


def may_lose_cache(asc: uint16_t) -> cython.bint:
    return asc == Asc.NOT_READY_TO_READY or asc >> 8 == Asc.POWER_ON_OR_RESET >> 8


def parse(data: bytes) -> Sense | None:
    """Parses fixed and descriptor format, current and deferred (SPC-4 §4.5); None for anything else."""
    found: SenseData
    if not decode(data, cast(uint32_t, len(data)), address(found)):
        return None
    return Sense(found.key, found.asc >> 8, found.asc & 0xFF, found.deferred != 0)
