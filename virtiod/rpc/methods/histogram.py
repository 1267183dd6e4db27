"""Methods about latency histograms."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Annotated

from virtiod.api.errors import INTERNAL_ERROR, RpcError
from virtiod.api.params import Arg, Name
from virtiod.api.registry import method
from virtiod.api.results.histogram import BorderCounts
from virtiod.bdev.histogram import RANGES, bucket_of
from virtiod.bdev.spdk_histograms import GRANULARITY, HistogramDescription
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.core.ticks import TICK_RATE
from virtiod.system import System

MAX_BORDERS = 1024
NO_BDEV = {-errno.ENODEV: "there is no such bdev"}
NOT_ENABLED = {**NO_BDEV, INTERNAL_ERROR: "the histogram is not enabled"}


@method(
    uses="name", errors={**NO_BDEV, -errno.EINVAL: "the bdev has no such I/O type, or min_nsec is not below max_nsec"}
)
async def bdev_enable_histogram(
    system: System,
    name: Annotated[str, Name("bdev", "name")],
    enable: Annotated[bool, Arg("enable or disable", "--histogram")],
    opc: Annotated[str | None, Arg("only this I/O type (default: all)", "-o/--opc")] = None,
    granularity: Annotated[
        int, Arg("2 to the power of it is the number of buckets of a range", "--granularity", 0, GRANULARITY)
    ] = GRANULARITY,
    min_nsec: Annotated[int, Arg("ns; lower latencies are counted as one", "--min-nsec")] = 1000,
    max_nsec: Annotated[int, Arg("ns; higher latencies are counted as one", "--max-nsec", 1)] = 120 * TICK_RATE,
) -> bool:
    """Starts or ends the collection of a latency histogram."""
    bdev = system.bdevs.get(name)
    if enable:
        top = 1 << (RANGES + GRANULARITY - 1)
        system.histograms.enable(bdev, opc, granularity, min_nsec, min(max_nsec, top))
    else:
        system.histograms.disable(bdev)
    return True


@method(reads=True, errors=NOT_ENABLED)
async def bdev_get_histogram(system: System, name: Annotated[str, Name("bdev", "name")]) -> HistogramDescription:
    """Returns a latency histogram that was enabled."""
    bdev = system.bdevs.get(name)
    with _unless_enabled():
        return system.histograms.encoded(bdev)


@method(reads=True, errors={**NOT_ENABLED, -errno.EINVAL: "no borders, too many, or not in ascending order"})
async def bdev_get_histogram_borders(
    system: System,
    name: Annotated[str, Name("bdev", "name")],
    borders: Annotated[list[int], Arg("latencies in microseconds, ascending", "--borders", 0, 2**40)],
) -> BorderCounts:
    """Counts the I/Os whose latency is at most each border; the last count is that of all I/Os.

    A border falls into a bucket of the histogram: its I/Os are counted.
    """
    if not borders or len(borders) > MAX_BORDERS or borders != sorted(borders):
        raise InvalidArgument(f"'borders' must be from 1 to {MAX_BORDERS} latencies in ascending order")
    bdev = system.bdevs.get(name)
    with _unless_enabled():
        sums = list(accumulate(system.histograms.counts(bdev), initial=0))
    below = [sums[bucket_of(border * 1000) + 1] for border in borders]
    return BorderCounts(borders_count=[*below, sums[-1]])


@contextmanager
def _unless_enabled() -> Iterator[None]:
    """SPDK's code for a histogram that was not enabled is that of an internal error."""
    try:
        yield
    except NotFound as error:
        raise RpcError(INTERNAL_ERROR, str(error)) from error
