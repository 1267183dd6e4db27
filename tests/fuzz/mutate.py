"""Makes new inputs from known ones: flips, overwrites, cuts, repeats and splices, with numbers that break parsers."""

from __future__ import annotations

import random

MAX_BYTES = 64 * 1024

# Ends of ranges of 8 to 64 bits, signs and powers of two.
NUMBERS = sorted(
    {(1 << bits) + off & (1 << 64) - 1 for bits in (0, 7, 8, 15, 16, 31, 32, 63, 64) for off in (-1, 0, 1)}
)


def _place(rng: random.Random, data: bytearray) -> tuple[int, int]:
    """A random range of data, mostly short."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + (rng.randrange(len(data) + 1) if rng.random() < 0.1 else rng.randrange(9)))


def _flip(rng: random.Random, data: bytearray, _other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, _other: bytes) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _number(rng: random.Random, data: bytearray, _other: bytes) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice(NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("little", "big")))
    start = rng.randrange(len(data) + 1)
    if rng.random() < 0.5:
        start -= start % size  # structures are aligned
    data[start : start + size] = value


def _cut(rng: random.Random, data: bytearray, _other: bytes) -> None:
    start, end = _place(rng, data)
    del data[start:end]


def _truncate(rng: random.Random, data: bytearray, _other: bytes) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _insert(rng: random.Random, data: bytearray, _other: bytes) -> None:
    start, _ = _place(rng, data)
    data[start:start] = rng.randbytes(rng.randrange(1, 17))


def _repeat(rng: random.Random, data: bytearray, _other: bytes) -> None:
    start, end = _place(rng, data)
    data[start:start] = data[start:end] * rng.choice((1, 2, 8, 64))


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    start, end = _place(rng, data)
    first, last = sorted((rng.randrange(len(other) + 1), rng.randrange(len(other) + 1)))
    data[start:end] = other[first:last]


MUTATIONS = (_flip, _byte, _number, _cut, _truncate, _insert, _repeat, _splice)


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A few mutations of data, some of which take pieces of other. At most MAX_BYTES."""
    result = bytearray(data)
    for _ in range(1 << rng.randrange(5)):
        rng.choice(MUTATIONS)(rng, result, other)
        del result[MAX_BYTES:]
    return bytes(result)
