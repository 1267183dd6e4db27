"""The commands that the control plane sends (SPC-4, SBC-4). Lengths in bytes."""

from __future__ import annotations

import struct

from virtiod.scsi.spec import CdbFlag, Opcode, ServiceAction

LONG = 252  # of an answer, as many old units take it


def inquiry(page: int | None = None, length: int = LONG) -> bytes:
    """INQUIRY (SPC-4 §6.6); page: of the vital product data."""
    return struct.pack(">BBBHB", Opcode.INQUIRY, 0 if page is None else CdbFlag.EVPD, page or 0, length, 0)


def report_luns(length: int) -> bytes:
    """REPORT LUNS (SPC-4 §6.33), all but the well known ones."""
    return struct.pack(">B5xIxx", Opcode.REPORT_LUNS, length)


def test_unit_ready() -> bytes:
    """TEST UNIT READY (SPC-4 §6.47)."""
    return bytes([Opcode.TEST_UNIT_READY, 0, 0, 0, 0, 0])


def start_unit() -> bytes:
    """START STOP UNIT (SBC-4 §5.31): start."""
    return bytes([Opcode.START_STOP_UNIT, 0, 0, 0, CdbFlag.START, 0])


def read_capacity_10() -> bytes:
    """READ CAPACITY (10) (SBC-4 §5.20)."""
    return bytes([Opcode.READ_CAPACITY_10]) + bytes(9)


def read_capacity_16(length: int = 32) -> bytes:
    """READ CAPACITY (16) (SBC-4 §5.21): a service action."""
    return struct.pack(">BB8xIxx", Opcode.SERVICE_ACTION_IN_16, ServiceAction.READ_CAPACITY_16, length)


def mode_sense_6(page: int, length: int = LONG) -> bytes:
    """MODE SENSE (6) (SPC-4 §6.13), without block descriptors, current values."""
    return bytes([Opcode.MODE_SENSE_6, CdbFlag.DBD, page, 0, length, 0])


def mode_sense_10(page: int, length: int = LONG) -> bytes:
    """MODE SENSE (10) (SPC-4 §6.14), without block descriptors, current values."""
    return struct.pack(">BBB4xHx", Opcode.MODE_SENSE_10, CdbFlag.DBD, page, length)


def synchronize_cache() -> bytes:
    """SYNCHRONIZE CACHE (10) (SBC-4 §5.33) of the whole unit."""
    return bytes([Opcode.SYNCHRONIZE_CACHE_10]) + bytes(9)
