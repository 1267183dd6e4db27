"""Disks in Python that answer SCSI commands (SPC-4, SBC-4), with everything that may be odd about them adjustable."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

GOOD, CHECK, BUSY, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x28


def fixed_sense(key: int, asc: int = 0, ascq: int = 0) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0])


def descriptor_sense(key: int, asc: int = 0, ascq: int = 0) -> bytes:
    return bytes([0x72, key, asc, ascq, 0, 0, 0, 0])


class Refused(Exception):
    """CHECK CONDITION with this sense."""

    def __init__(self, key: int, asc: int = 0, ascq: int = 0) -> None:
        super().__init__(key, asc, ascq)
        self.sense = fixed_sense(key, asc, ascq)


NO_COMMAND = (5, 0x20, 0)
BAD_FIELD = (5, 0x24, 0)


def designator(kind: int, value: bytes, association: int = 0) -> bytes:
    return bytes([1 if kind in {2, 3, 10} else 2, association << 4 | kind, 0, len(value)]) + value


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
    attentions: list[tuple[int, int]] = field(default_factory=lambda: [(0x29, 0)])
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
        if self.attentions and op not in {0x12, 0xA0}:
            asc, ascq = self.attentions.pop(0)
            raise Refused(6, asc, ascq)
        if op in self.unknown:
            raise Refused(*NO_COMMAND)
        if op == 0x12:
            return self.inquiry(cdb)[: struct.unpack_from(">H", cdb, 3)[0]]
        if op == 0xA0:
            entries = b"".join(bytes([0x40 | n >> 8 if n > 255 else 0, n & 0xFF]) + bytes(6) for n in target_luns)
            return (struct.pack(">I4x", len(entries)) + entries)[: struct.unpack_from(">I", cdb, 6)[0]]
        if op == 0x1B:
            self.needs_start = False
            return b""
        if self.needs_start:
            raise Refused(2, 4, 2)
        if op in {0x00, 0x35, 0x91}:
            return b""
        if op == 0x25:
            return struct.pack(">II", min(self.blocks - 1, 0xFFFFFFFF), self.block_size)
        if op == 0x9E:
            return struct.pack(">QIBBBB16x", self.blocks - 1, self.block_size, 0, 3, 0x80 if self.unmap else 0, 0)
        if op in {0x5A, 0x1A}:
            return self.mode(op == 0x5A)
        return self.transfer(cdb, out)

    def inquiry(self, cdb: bytes) -> bytes:
        if not cdb[1] & 1:
            return bytes([self.type, 0, 6, 2, 31, 0, 0, 0]) + b"VIRTIOD Fake disk       1.0 "
        bodies = {
            0x80: self.serial.encode(),
            0x83: designator(1, b"VIRTIOD " + self.serial.encode()) + designator(3, struct.pack(">Q", self.naa)),
            0xB0: struct.pack(
                ">4xII4xIIIIQ20x",
                *(self.max_transfer, 64, self.max_unmap, self.max_descriptors, 8, 0x80000000, self.max_write_same),
            ),
            0xB2: bytes([0, self.unmap << 7 | self.write_same << 6, 0, 0]),
        }
        bodies[0x00] = bytes([0x00, *sorted(bodies)])
        if cdb[2] not in bodies:
            raise Refused(*BAD_FIELD)
        return page(cdb[2], bodies[cdb[2]])

    def mode(self, long: bool) -> bytes:
        caching = bytes([0x08, 0x12, self.write_cache << 2]) + bytes(17)
        specific = self.write_protect << 7 | self.fua << 4
        if long:
            return struct.pack(">HBB4x", 6 + len(caching), 0, specific) + caching
        return bytes([3 + len(caching), 0, specific, 0]) + caching

    def transfer(self, cdb: bytes, out: bytes) -> bytes:
        op = cdb[0]
        if op in {0x28, 0x2A}:
            lba, blocks = struct.unpack_from(">IxH", cdb, 2)
        elif op in {0x88, 0x8A, 0x93}:
            lba, blocks = struct.unpack_from(">QI", cdb, 2)
        elif op == 0x42:
            return self.unmapped(out, cdb[7] << 8 | cdb[8])
        else:
            raise Refused(*NO_COMMAND)
        if lba + blocks > self.blocks:
            raise Refused(5, 0x21)
        if op in {0x28, 0x88}:
            nothing = bytes(self.block_size)
            return b"".join(self.data.get(n, nothing) for n in range(lba, lba + blocks))
        if op in {0x2A, 0x8A} and len(out) != blocks * self.block_size:
            raise Refused(5, 0x1A)
        for n in range(blocks):
            if op in {0x2A, 0x8A}:
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
            raise Refused(5, 0x26)
        for lba, blocks in ranges:
            if lba + blocks > self.blocks:
                raise Refused(5, 0x21)
            for gone in [block for block in self.data if lba <= block < lba + blocks]:
                del self.data[gone]
        return b""
