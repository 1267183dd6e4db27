"""Histograms of latencies: which buckets there are, and what can be told from their counts.

The data plane counts each latency (ns) in one of BUCKETS buckets: range 0 holds 0 to 31 one by one, range r the values
from 2^(r+4) up to 2^(r+5) in steps of 2^(r-1). A bucket is at most 1/32 of its start wide. All code that shows
latencies sums up these buckets or cuts them: nothing is counted a second time, and nothing else knows their shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from cython.cimports.virtiod.bdev.histogram import bucket, place
from cython.cimports.virtiod.core.types import HIST_BUCKETS, HIST_RANGES, HIST_SUB_BITS

SUB_BITS = HIST_SUB_BITS
RANGES = HIST_RANGES
BUCKETS = HIST_BUCKETS

Cuts = list[int]  # numbers of buckets, ascending: where to cut all of them into few, see cut()


def bucket_of(ns: int) -> int:
    """The bucket that counts a latency; those too long for any are in the last one."""
    return bucket(ns)


def place_of(value: int, sub_bits: int) -> int:
    """The bucket of a value where 2^sub_bits buckets make a range, as many ranges as it takes."""
    return place(value, sub_bits)


def range_of(value: int, sub_bits: int) -> int:
    """The range of a value where 2^sub_bits buckets make a range."""
    return place_of(value, sub_bits) >> sub_bits


def bucket_start(index: int) -> int:
    """The smallest latency (ns) that a bucket counts; of BUCKETS, where the last one ends."""
    span, sub = index >> SUB_BITS, index & ((1 << SUB_BITS) - 1)
    return sub if span == 0 else ((1 << SUB_BITS) + sub) << (span - 1)


STARTS = tuple([bucket_start(index) for index in range(BUCKETS)])


def cut(bound_ns: int) -> int:
    """How many buckets lie below a bound: up to the edge that is nearest to it, which is within 1/64 of it."""
    index = bucket_of(bound_ns)
    start, end = bucket_start(index), bucket_start(index + 1)
    return index if bound_ns - start < end - bound_ns else index + 1


def quantile(counts: Sequence[int], q: float, starts: Sequence[int] = STARTS) -> float:
    """The value that a share q (0 to 1) of what was counted does not exceed; 0.0 when nothing was.

    counts[i]: values from starts[i] up to the next start, taken as spread evenly over them. Those of the last bucket
    are taken for its start.
    """
    wanted = q * sum(counts)
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            last = starts[index + 1] - 1 if index + 1 < len(counts) else starts[index]
            return starts[index] + (last - starts[index]) * (wanted - below) / count
        below += count
    return 0.0
