"""Sizes as people write them."""

from __future__ import annotations

from virtiod.core.errors import InvalidArgument

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """The bytes of "64M"; raises InvalidArgument."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in UNITS:
        raise InvalidArgument(f"size {text!r}: must be a number, perhaps with K, M, G or T after it")
    return int(number) * UNITS[unit]
