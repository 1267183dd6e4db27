"""Disks in Python that answer SCSI commands (SPC-4, SBC-4), with everything that may be odd about them adjustable."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from virtiod.scsi.spec import Asc, CdbFlag, DesignatorType, ModePage, Opcode, SenseFormat, SenseKey, VpdPage

READS: frozenset[int] = frozenset({Opcode.READ_10, Opcode.READ_16})
WRITES: frozenset[int] = frozenset({Opcode.WRITE_10, Opcode.WRITE_16})
FLUSHES: frozenset[int] = frozenset({Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16})


def fixed_sense(key: int, code: int = Asc.NO_ADDITIONAL_SENSE) -> bytes:
    """code: the additional sense code and its qualifier."""
    return bytes([SenseFormat.FIXED_CURRENT, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code >> 8, code & 0xFF, 0, 0, 0, 0])


def descriptor_sense(key: int, code: int = Asc.NO_ADDITIONAL_SENSE) -> bytes:
    return bytes([SenseFormat.DESCRIPTOR_CURRENT, key, code >> 8, code & 0xFF, 0, 0, 0, 0])


def deferred(sense: bytes) -> bytes:
    """The same sense, of an earlier command (SPC-4 §4.5.7): the response codes are the next ones."""
    return bytes([sense[0] | 1]) + sense[1:]


class Refused(Exception):
    """CHECK CONDITION with this sense."""

    def __init__(self, key: int, code: int = Asc.NO_ADDITIONAL_SENSE) -> None:
        super().__init__(key, code)
        self.sense = fixed_sense(key, code)


NO_COMMAND = (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPCODE)
BAD_FIELD = (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)
BINARY = {DesignatorType.EUI_64, DesignatorType.NAA, DesignatorType.UUID}


def designator(kind: int, value: bytes, association: int = 0) -> bytes:
    return bytes([1 if kind in BINARY else 2, association << 4 | kind, 0, len(value)]) + value


def page(number: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0, number, len(body)) + body


@dataclass
class FakeUnit:
    """size in bytes. unknown: operation codes it refuses. log: its CDBs; unmaps: the ranges of its UNMAPs."""

    size: int = 1 << 20
    block_size: int = 512
    serial: str = "S0"
    naa: int = 0x5000000000000001
    write_protect: bool = False
    write_cache: bool = True
    fua: bool = True
    unmap: bool = True
    write_same: bool = True
    max_transfer: int = 0
    max_unmap: int = 4096
    max_descriptors: int = 1
    max_write_same: int = 0
    type: int = 0
    unknown: set[int] = field(default_factory=set)
    attentions: list[int] = field(default_factory=lambda: [int(Asc.POWER_ON_OR_RESET)])
    needs_start: bool = False
    data: dict[int, bytes] = field(default_factory=dict)
    log: list[bytes] = field(default_factory=list)
    unmaps: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return self.size // self.block_size

    def execute(self, cdb: bytes, out: bytes, target_luns: list[int]) -> bytes:
        """What it answers; raises Refused."""
        op = cdb[0]
        self.log.append(cdb)
        if self.attentions and op not in {Opcode.INQUIRY, Opcode.REPORT_LUNS}:
            raise Refused(SenseKey.UNIT_ATTENTION, self.attentions.pop(0))
        if op in self.unknown:
            raise Refused(*NO_COMMAND)
        if op == Opcode.INQUIRY:
            return self.inquiry(cdb)[: struct.unpack_from(">H", cdb, 3)[0]]
        if op == Opcode.REPORT_LUNS:
            entries = b"".join(bytes([0x40 | n >> 8 if n > 255 else 0, n & 0xFF]) + bytes(6) for n in target_luns)
            return (struct.pack(">I4x", len(entries)) + entries)[: struct.unpack_from(">I", cdb, 6)[0]]
        if op == Opcode.START_STOP_UNIT:
            self.needs_start = False
            return b""
        if self.needs_start:
            raise Refused(SenseKey.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
        if op == Opcode.TEST_UNIT_READY or op in FLUSHES:
            return b""
        if op == Opcode.READ_CAPACITY_10:
            return struct.pack(">II", min(self.blocks - 1, 0xFFFFFFFF), self.block_size)
        if op == Opcode.SERVICE_ACTION_IN_16:
            return struct.pack(">QIBBBB16x", self.blocks - 1, self.block_size, 0, 3, 0x80 if self.unmap else 0, 0)
        if op in {Opcode.MODE_SENSE_10, Opcode.MODE_SENSE_6}:
            return self.mode(op == Opcode.MODE_SENSE_10)
        return self.transfer(cdb, out)

    def inquiry(self, cdb: bytes) -> bytes:
        if not cdb[1] & CdbFlag.EVPD:
            return bytes([self.type, 0, 6, 2, 31, 0, 0, 0]) + b"VIRTIOD Fake disk       1.0 "
        bodies: dict[int, bytes] = {
            VpdPage.UNIT_SERIAL_NUMBER: self.serial.encode(),
            VpdPage.DEVICE_IDENTIFICATION: designator(DesignatorType.T10_VENDOR_ID, b"VIRTIOD " + self.serial.encode())
            + designator(DesignatorType.NAA, struct.pack(">Q", self.naa)),
            VpdPage.BLOCK_LIMITS: struct.pack(
                ">4xII4xIIIIQ20x",
                *(self.max_transfer, 64, self.max_unmap, self.max_descriptors, 8, 0x80000000, self.max_write_same),
            ),
            VpdPage.LOGICAL_BLOCK_PROVISIONING: bytes([0, self.unmap << 7 | self.write_same << 6, 0, 0]),
        }
        bodies[VpdPage.SUPPORTED_PAGES] = bytes([VpdPage.SUPPORTED_PAGES, *sorted(bodies)])
        if cdb[2] not in bodies:
            raise Refused(*BAD_FIELD)
        return page(cdb[2], bodies[cdb[2]])

    def mode(self, long: bool) -> bytes:
        caching = bytes([ModePage.CACHING, 18, self.write_cache << 2]) + bytes(17)
        specific = self.write_protect << 7 | self.fua << 4
        if long:
            return struct.pack(">HBB4x", 6 + len(caching), 0, specific) + caching
        return bytes([3 + len(caching), 0, specific, 0]) + caching

    def transfer(self, cdb: bytes, out: bytes) -> bytes:
        op = cdb[0]
        if op in {Opcode.READ_10, Opcode.WRITE_10}:
            lba, blocks = struct.unpack_from(">IxH", cdb, 2)
        elif op in {Opcode.READ_16, Opcode.WRITE_16, Opcode.WRITE_SAME_16}:
            lba, blocks = struct.unpack_from(">QI", cdb, 2)
        elif op == Opcode.UNMAP:
            return self.unmapped(out, cdb[7] << 8 | cdb[8])
        else:
            raise Refused(*NO_COMMAND)
        if lba + blocks > self.blocks:
            raise Refused(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)
        if op in READS:
            nothing = bytes(self.block_size)
            return b"".join(self.data.get(n, nothing) for n in range(lba, lba + blocks))
        if op in WRITES and len(out) != blocks * self.block_size:
            raise Refused(SenseKey.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH_ERROR)
        for n in range(blocks):
            if op in WRITES:
                self.data[lba + n] = out[n * self.block_size : (n + 1) * self.block_size]
            else:
                self.data.pop(lba + n, None)
        return b""

    def unmapped(self, out: bytes, length: int) -> bytes:
        n = (len(out) - 8) // 16
        assert len(out) == length == 8 + 16 * n
        assert struct.unpack_from(">HH4x", out) == (length - 2, 16 * n)
        ranges = [struct.unpack_from(">QI4x", out, 8 + 16 * i) for i in range(n)]
        self.unmaps.append(ranges)
        if n > self.max_descriptors or (sum(b for _, b in ranges) > self.max_unmap != 0xFFFFFFFF):
            raise Refused(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)
        for lba, blocks in ranges:
            if lba + blocks > self.blocks:
                raise Refused(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)
            for gone in [block for block in self.data if lba <= block < lba + blocks]:
                del self.data[gone]
        return b""
