"""What one request to a device may be."""

from __future__ import annotations

from typing import NamedTuple


class RequestLimits(NamedTuple):
    """Larger I/O is split by these. In bytes, but max_segments; max_transfer is that of READ and WRITE."""

    max_segments: int
    max_segment: int
    max_transfer: int
    max_unmap: int
    max_write_zeroes: int
