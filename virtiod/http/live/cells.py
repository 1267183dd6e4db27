"""One second of a bdev: what changed between two reads of its counters. Pure.

Latencies are counted in four buckets for each power of two from 256 ns to 17 s, which are whole fine buckets of the
data plane, so that nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import add, sub
from typing import NamedTuple

from virtiod.bdev.histogram import cut, quantile
from virtiod.core.ticks import NS_PER_S

EDGES_NS = [(4 + quarter) << (octave - 2) for octave in range(8, 34) for quarter in range(4)]
CUTS = [cut(edge) for edge in EDGES_NS]
_STARTS_NS = (0, *EDGES_NS)


class Counted(NamedTuple):
    """What a bdev has counted until at_ns. Operations are those with success; errors and below count the others too.

    others: flushes, unmaps and write zeroes. time_ns: sum of the latencies. below[i]: I/Os that took less than
    EDGES_NS[i], the last one: all that ended.
    """

    at_ns: int
    reads: int
    writes: int
    others: int
    read_bytes: int
    written_bytes: int
    errors: int
    time_ns: int
    below: list[int]


NOTHING = Counted(0, 0, 0, 0, 0, 0, 0, 0, [0] * (len(EDGES_NS) + 1))


class Cell(NamedTuple):
    """One second, all but depth per second. Latencies in ns, None when no I/O ended.

    depth: I/Os in flight at its end; mean_depth: over the second, None when that can't be told, as I/O that took
    longer ended in it. counts: pairs of a bucket and how many I/Os ended in it; bucket i is what took less than
    EDGES_NS[i], and no less than the edge before.
    """

    reads: float = 0
    writes: float = 0
    others: float = 0
    read_bytes: float = 0
    written_bytes: float = 0
    errors: float = 0
    depth: int = 0
    mean_depth: float | None = 0
    mean_ns: float | None = None
    p50_ns: float | None = None
    p99_ns: float | None = None
    counts: tuple[int, ...] = ()

    @property
    def iops(self) -> float:
        """Completed I/Os of all kinds, per second."""
        return self.reads + self.writes + self.others

    def row(self) -> list[object]:
        """The cell as the page receives it."""
        return [*map(_short, self[:-1]), self.counts]


IDLE = Cell()


def difference(now: Counted, before: Counted) -> Counted:
    """What was counted between two reads; at_ns is the time between them."""
    numbers = map(sub, now[:-1], before[:-1])
    return Counted._make((*numbers, list(map(sub, now.below, before.below))))


def total(parts: Sequence[Counted]) -> Counted:
    """The sum over several bdevs; at_ns: the mean of theirs."""
    if not parts:
        return NOTHING
    numbers = [sum(column) for column in zip(*(part[:-1] for part in parts), strict=True)]
    below = NOTHING.below
    for part in parts:
        below = list(map(add, below, part.below))
    return Counted._make((numbers[0] // len(parts), *numbers[1:], below))


def cell(change: Counted, depth: int, oldest_ns: int = 0) -> Cell:
    """The second in which that changed. oldest_ns: how long the oldest I/O in flight had been so when it began."""
    seconds = change.at_ns / NS_PER_S
    ended = change.below[-1]
    if seconds <= 0:
        return Cell(depth=depth)
    if not ended:
        return Cell(depth=depth, mean_depth=depth) if depth else IDLE
    buckets = [change.below[0], *(high - low for low, high in pairwise(change.below))]
    return Cell(
        reads=change.reads / seconds,
        writes=change.writes / seconds,
        others=change.others / seconds,
        read_bytes=change.read_bytes / seconds,
        written_bytes=change.written_bytes / seconds,
        errors=change.errors / seconds,
        depth=depth,
        mean_depth=None if oldest_ns > change.at_ns else change.time_ns / change.at_ns,
        mean_ns=change.time_ns / ended,
        p50_ns=quantile(buckets, 0.50, _STARTS_NS),
        p99_ns=quantile(buckets, 0.99, _STARTS_NS),
        counts=tuple(number for pair in enumerate(buckets) if pair[1] for number in pair),
    )


def _short(value: float | None) -> float | None:
    """The value rounded to five digits: more than a screen can show, in few bytes."""
    return value if value is None or isinstance(value, int) else float(f"{value:.5g}")
