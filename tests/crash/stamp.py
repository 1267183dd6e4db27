"""What a written block holds: the same 16 bytes all over, which name the write and the block.

So a block that is read back says which write it comes from, whether it lies where it was written to, and whether it is
one write's or made of parts.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

BLOCK = 512
_STAMP = struct.Struct(">2sHIII")
_TIMES = BLOCK // _STAMP.size
_MARK = b"vC"
_ZERO = bytes(BLOCK)


class Stamp(NamedTuple):
    """A write of a user of a run, by its number, as it is in one block. seed: the low 32 bits of the run's."""

    user: int
    seed: int
    number: int
    block: int


# A part of a block: of a write, of zeros (None), or of neither.
Piece = Stamp | bytes | None


def data(seed: int, user: int, number: int, first: int, count: int) -> bytes:
    """What a write of `count` blocks from `first` on writes."""
    low = seed & 0xFFFFFFFF
    return b"".join(_STAMP.pack(_MARK, user, low, number, block) * _TIMES for block in range(first, first + count))


def pieces(block: bytes) -> tuple[Piece, ...]:
    """What a block is made of, each part once: one, unless it is torn."""
    if block == _ZERO:
        return (None,)
    size = _STAMP.size
    first = block[:size]
    if block == first * _TIMES:
        return (_piece(first),)
    return tuple(_piece(part) for part in dict.fromkeys(block[i : i + size] for i in range(0, BLOCK, size)))


def _piece(part: bytes) -> Piece:
    if not any(part):
        return None
    mark, *stamp = _STAMP.unpack(part)
    return Stamp(*stamp) if mark == _MARK else part
