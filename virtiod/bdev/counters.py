"""What bdevs count, summed over their channels: what RPC, metrics, the page and the load generator's report show.

Counters are written by one poller each and read here without a lock, at any time. The sums are made in C: a thousand
bdevs have some five million buckets, of which a reader takes as few sums as it has a use for (cuts).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cython
from cython import address
from cython.cimports.libc.stdint import UINT64_MAX, uint64_t
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import (
    ERROR_COUNT,
    HIST_BUCKETS,
    OP_COUNT,
    ChannelPtr,
    OpStatsArray,
    OpStatsPtr,
)

from virtiod.bdev.channel import OPS
from virtiod.bdev.histogram import Cuts

READ_AT_ONCE = 20  # bdevs whose counters a reader takes before others get their turn: a millisecond
ERRORS = ("io", "nospace", "invalid", "readonly", "unsupported", "timeout", "nodevice", "other")  # by ErrorClass


class OpCounters(NamedTuple):
    """One operation, on one channel or on several.

    bytes: of those completed. time_ns: sum of the latencies of all that ended (completed or failed). min_ns, max_ns:
    of all that ended since reset_extremes(), 0 for none. errors: of those failed, by status, in the order of ERRORS.
    below[i]: I/Os that ended in the buckets before cuts[i], the last one: all that ended; empty without cuts.
    completed_ns, completed_min_ns, completed_max_ns: as time_ns, min_ns, max_ns, of those completed: what can be
    divided by their number.
    """

    submitted: int
    completed: int
    failed: int
    bytes: int
    time_ns: int
    min_ns: int
    max_ns: int
    errors: list[int]
    below: list[int]
    completed_ns: int = 0
    completed_min_ns: int = 0
    completed_max_ns: int = 0

    @property
    def failures(self) -> dict[str, int]:
        """errors by the name of the status, without those that are 0."""
        return {status: n for status, n in zip(ERRORS, self.errors, strict=True) if n}


class BdevCounters(NamedTuple):
    """A bdev, or one channel of it. ops: by operation, in the order of OPS.

    oldest_ns: age of the oldest I/O in flight, 0 for none. busy_ns: time with I/O in flight, on the busiest channel.
    weighted_ns: sum of the latencies of all I/Os that ended.
    """

    ops: dict[str, OpCounters]
    in_flight: int
    oldest_ns: int
    busy_ns: int
    weighted_ns: int

    @property
    def failures(self) -> dict[str, int]:
        """I/Os of all operations that failed, by the name of the status, without those that are 0."""
        errors = [sum(of) for of in zip(*[op.errors for op in self.ops.values()], strict=True)]
        return {status: n for status, n in zip(ERRORS, errors, strict=True) if n}


NO_IO = OpCounters(0, 0, 0, 0, 0, 0, 0, [0] * ERROR_COUNT, [])
NOTHING = BdevCounters(dict.fromkeys(OPS, NO_IO), 0, 0, 0, 0)


def bdev_counters(channels: BdevChannels, cuts: Cuts | None = None) -> BdevCounters:
    """The sum of all channels of a bdev. cuts: buckets below which latencies are counted."""
    c: cython.int
    for c in range(channels.count):
        channels.busy_shown = max(channels.busy_shown, _busy_ns(channels.channels[c]))
    return _counters(channels, 0, channels.count, cuts, channels.busy_shown)


def channel_counters(channels: BdevChannels, cuts: Cuts | None = None) -> list[BdevCounters]:
    """The counters of each channel of a bdev, in the order of its pollers."""
    c: cython.int
    return [_counters(channels, c, 1, cuts, _busy_ns(channels.channels[c])) for c in range(channels.count)]


def latencies(channels: BdevChannels, ops: Iterable[str]) -> list[int]:
    """How many I/Os of these operations ended, on all channels, by the bucket of their latency."""
    number: cython.int
    counts: list[list[int]] = []
    for op in ops:
        number = OPS.index(op)
        # Safety: an index of OPS, for each of which stats has channels.count pointers.
        counts.append(bucket_counts(channels.stats + number * channels.count, channels.count))
    return [sum(of) for of in zip(*counts, strict=True)]


def ended_ios(channels: BdevChannels) -> int:
    """I/Os that completed or failed, on all channels: whether anything changed, for much less than bdev_counters()."""
    i: cython.int
    s: OpStatsPtr
    ended: uint64_t = 0
    for i in range(OP_COUNT * channels.count):
        s = channels.stats[i]
        ended += atomics.relaxed_u64(address(s.completed)) + atomics.relaxed_u64(address(s.failed))
    return ended


def failed_ios(channels: BdevChannels) -> int:
    """I/Os that failed, on all channels."""
    i: cython.int
    failed: uint64_t = 0
    for i in range(OP_COUNT * channels.count):
        failed += atomics.relaxed_u64(address(channels.stats[i].failed))
    return failed


@cython.cfunc
def _counters(
    channels: BdevChannels, first: cython.int, n: cython.int, cuts: Cuts | None, busy_ns: uint64_t
) -> BdevCounters:
    """The sum of n channels from the first on."""
    op: cython.int
    oldest: uint64_t = channels.oldest_of(first, n)
    now: uint64_t = clock.now_ns()
    ops: dict[str, OpCounters] = {}
    weighted = 0
    for op in range(OP_COUNT):
        # Safety: stats has channels.count pointers for each operation, and first + n is at most that.
        counted = op_counters(channels.stats + op * channels.count + first, n, cuts)
        ops[OPS[op]] = counted
        weighted += counted.time_ns
    age: uint64_t = now - oldest if oldest and now > oldest else 0
    return BdevCounters(ops, channels.in_flight_of(first, n), age, busy_ns, weighted)


def op_counters(stats: OpStatsArray, n: cython.int, cuts: Cuts | None) -> OpCounters:
    """The sum of n, at stats[0] and after it: the same operation on several pollers."""
    i: cython.int
    k: cython.int
    s: OpStatsPtr
    submitted: uint64_t = 0
    completed: uint64_t = 0
    failed: uint64_t = 0
    size: uint64_t = 0
    time_ns: uint64_t = 0
    min_ns: uint64_t = UINT64_MAX
    max_ns: uint64_t = 0
    failed_ns: uint64_t = 0
    failed_min: uint64_t = UINT64_MAX
    failed_max: uint64_t = 0
    for i in range(n):
        s = stats[i]
        submitted += atomics.relaxed_u64(address(s.submitted))
        completed += atomics.relaxed_u64(address(s.completed))
        failed += atomics.relaxed_u64(address(s.failed))
        size += atomics.relaxed_u64(address(s.bytes))
        time_ns += atomics.relaxed_u64(address(s.time_ns))
        min_ns = min(min_ns, atomics.relaxed_u64(address(s.min_ns)))
        max_ns = max(max_ns, atomics.relaxed_u64(address(s.max_ns)))
        failed_ns += atomics.relaxed_u64(address(s.failed_ns))
        failed_min = min(failed_min, atomics.relaxed_u64(address(s.failed_min_ns)))
        failed_max = max(failed_max, atomics.relaxed_u64(address(s.failed_max_ns)))
    errors: list[int] = [0] * ERROR_COUNT
    if failed:
        for k in range(ERROR_COUNT):
            count: uint64_t = 0
            for i in range(n):
                count += atomics.relaxed_u64(address(stats[i].errors[k]))
            errors[k] = count
    below: list[int] = [] if cuts is None else [0] * (len(cuts) + 1)
    if submitted and cuts is not None:  # or the reader fetches buckets that are in no cache, and all 0
        below = _below(stats, n, cuts)
    return OpCounters(
        submitted,
        completed,
        failed,
        size,
        time_ns + failed_ns,
        _shortest(min(min_ns, failed_min)),
        max(max_ns, failed_max),
        errors,
        below,
        time_ns,
        _shortest(min_ns),
        max_ns,
    )


def _shortest(min_ns: uint64_t) -> uint64_t:
    """0 for none."""
    return 0 if min_ns == UINT64_MAX else min_ns


@cython.cfunc
def _below(stats: OpStatsArray, n: cython.int, cuts: list[int]) -> list[int]:
    c: cython.int
    i: cython.int = 0
    end: cython.int
    count: uint64_t = 0
    below: list[int] = []
    for cut in [*cuts, HIST_BUCKETS]:
        end = min(cut, HIST_BUCKETS)
        while i < end:
            for c in range(n):
                count += atomics.relaxed_u64(address(stats[c].buckets[i]))
            i += 1
        below.append(count)
    return below


def bucket_counts(stats: OpStatsArray, n: cython.int) -> list[int]:
    """How many I/Os of n, at stats[0] and after it, ended with a latency of each bucket."""
    c: cython.int
    i: cython.int
    count: uint64_t
    counts: list[int] = []
    for i in range(HIST_BUCKETS):
        count = 0
        for c in range(n):
            count += atomics.relaxed_u64(address(stats[c].buckets[i]))
        counts.append(count)
    return counts


def _busy_ns(ch: ChannelPtr) -> uint64_t:
    """Time with I/O in flight, up to now.

    The poller may end or begin a time in flight between two reads. If one has ended, busy_ns has changed or is about
    to: a changed one is read again, so that no time counts twice; for one about to change the result is
    too low for once, which bdev_counters() hides by its maximum.
    """
    before: uint64_t
    in_flight: uint64_t
    since: uint64_t
    now: uint64_t
    while True:
        before = atomics.load_u64(address(ch.busy_ns))
        in_flight = atomics.load_u64(address(ch.in_flight))
        since = atomics.load_u64(address(ch.busy_since))
        now = clock.now_ns()
        if atomics.load_u64(address(ch.busy_ns)) == before:
            return before + now - since if in_flight and now > since else before
