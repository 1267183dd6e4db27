"""Latency histograms that RPC clients enable, as SPDK's histogram tools read them.

The data plane's buckets are SPDK's layout with granularity 5, so that coarser ones are sums of neighbours and no count
is ever approximated. Enabling records what was counted before.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Annotated
from weakref import WeakKeyDictionary

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.histogram import STARTS, SUB_BITS, place_of, range_of
from virtiod.core.described import Member
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.core.ticks import TICK_RATE

GRANULARITY = SUB_BITS  # SPDK's word for it


@dataclass(frozen=True)
class _Enabled:
    ops: tuple[str, ...]
    granularity: int
    min_range: int
    max_range: int
    before: list[int]


@dataclass(kw_only=True)
class HistogramDescription:
    """Latencies in buckets: 2 to the power of the granularity for each range of a power of two."""

    histogram: Annotated[str, Member("counts of the buckets: 64-bit little-endian numbers, in base64")]
    granularity: Annotated[int, Member("2 to the power of it is the number of buckets of a range")]
    min_range: Annotated[int, Member("first range")]
    max_range: Annotated[int, Member("last range")]
    tsc_rate: Annotated[int, Member("ticks per second: the unit of the latencies")]


class Histograms:
    """The histograms that clients enabled."""

    def __init__(self) -> None:
        self._enabled: WeakKeyDictionary[Bdev, _Enabled] = WeakKeyDictionary()

    def enable(self, bdev: Bdev, op: str | None, granularity: int, min_ns: int, max_ns: int) -> None:
        """Starts or restarts a histogram. Values below min_ns count in the first bucket, from max_ns on in the last."""
        if op is not None and op not in bdev.io_types:
            raise InvalidArgument(f"opc must be one of {', '.join(sorted(bdev.io_types))}, not {op!r}")
        if min_ns >= max_ns:
            raise InvalidArgument(f"min_nsec ({min_ns}) must be less than max_nsec ({max_ns})")
        ops = (op,) if op is not None else tuple(sorted(bdev.io_types))
        self._enabled[bdev] = _Enabled(
            ops=ops,
            granularity=granularity,
            min_range=range_of(min_ns, granularity),
            max_range=range_of(max_ns - 1, granularity),
            before=bdev.latencies(ops),
        )

    def disable(self, bdev: Bdev) -> None:
        """Ends the collection, if there is one."""
        self._enabled.pop(bdev, None)

    def counts(self, bdev: Bdev) -> list[int]:
        """What was counted since it was enabled, in the data plane's buckets. Raises NotFound if it is not enabled."""
        enabled = self._of(bdev)
        return [now - then for now, then in zip(bdev.latencies(enabled.ops), enabled.before, strict=True)]

    def encoded(self, bdev: Bdev) -> HistogramDescription:
        """The histogram as SPDK's histogram tools read it. Raises NotFound if it is not enabled."""
        shape = self._of(bdev)
        buckets = rebucket(self.counts(bdev), shape.granularity, shape.min_range, shape.max_range)
        return HistogramDescription(
            histogram=base64.b64encode(struct.pack(f"<{len(buckets)}Q", *buckets)).decode(),
            granularity=shape.granularity,
            min_range=shape.min_range,
            max_range=shape.max_range,
            tsc_rate=TICK_RATE,
        )

    def _of(self, bdev: Bdev) -> _Enabled:
        if bdev not in self._enabled:
            raise NotFound(f"the histogram of bdev '{bdev.name}' is not enabled")
        return self._enabled[bdev]


def rebucket(counts: list[int], granularity: int, min_range: int, max_range: int) -> list[int]:
    """The data plane's counts in 2^granularity buckets for each range from min_range to max_range."""
    first, end = min_range << granularity, (max_range + 1) << granularity
    buckets = [0] * (end - first)
    for start, count in zip(STARTS, counts, strict=True):
        if count:
            place = place_of(start, granularity)
            buckets[min(max(place, first), end - 1) - first] += count
    return buckets
