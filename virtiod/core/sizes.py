"""Sizes: as people write them, and which a block device can have."""

from __future__ import annotations

from virtiod.core.errors import InvalidArgument

MIN_BLOCK, MAX_BLOCK = 512, 65536  # bytes
MAX_SIZE = (1 << 63) - 1  # of a device, in bytes: offsets are signed 64-bit numbers to the kernel and to NBD
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """The bytes of "64M"; raises InvalidArgument."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in UNITS:
        raise InvalidArgument(f"size {text!r}: must be a number, perhaps with K, M, G or T after it")
    return int(number) * UNITS[unit]


def check_geometry(block_size: int, num_blocks: int) -> None:
    """Raises InvalidArgument for what no block device can be. Ask it before anything is computed from the two."""
    if not is_block_size(block_size):
        raise InvalidArgument(f"block size {block_size} is not a power of two from {MIN_BLOCK} to {MAX_BLOCK}")
    if num_blocks <= 0:
        raise InvalidArgument(f"capacity is {num_blocks} blocks")
    if num_blocks * block_size > MAX_SIZE:
        raise InvalidArgument(f"capacity of {num_blocks} blocks of {block_size} bytes is too large")


def is_block_size(size: int) -> bool:
    return MIN_BLOCK <= size <= MAX_BLOCK and not size & (size - 1)
