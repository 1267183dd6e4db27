"""A bdev's counters summed over its channels, as metrics want them: cheap to read, and none ever goes back.

BdevStats tells more, in Python lists of a thousand buckets for each operation; with a thousand bdevs that takes
seconds. Here the sums are made in C and the latencies come in as few buckets as are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import cython
from cython import address
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import HIST_BUCKETS, OP_COUNT, ChannelPtr, OpStatsPtr


class OpTotals(NamedTuple):
    """One operation. latencies[i]: I/Os that ended (completed or failed) in the fine buckets below cuts[i], and in
    all buckets for the last one, past the cuts. errors: by status, in the order of channel.ERRORS."""

    submitted: int
    completed: int
    bytes: int
    time_ns: int
    latencies: list[int]
    errors: list[int]


class BdevTotals(NamedTuple):
    """ops in the order of channel.OPS. oldest_ns: age of the oldest I/O in flight, 0 for none; busy_ns: time with
    I/O in flight, on the busiest channel; weighted_ns: sum of the latencies of all I/Os that ended."""

    ops: list[OpTotals]
    in_flight: int
    oldest_ns: int
    busy_ns: int
    weighted_ns: int


def bdev_totals(channels: BdevChannels, cuts: list[int]) -> BdevTotals:
    """The sums over all channels. cuts: numbers of fine buckets, ascending, at most 1088."""
    c: cython.int
    busy: uint64_t
    oldest: uint64_t = channels.oldest_ns()
    now: uint64_t = clock.now_ns()
    ops = [_op_totals(channels, op, cuts) for op in range(OP_COUNT)]
    for c in range(channels.count):
        busy = _busy_ns(channels.channels[c])
        channels.busy_shown = max(channels.busy_shown, busy)
    return BdevTotals(
        ops,
        channels.in_flight(),
        now - oldest if oldest and now > oldest else 0,
        channels.busy_shown,
        sum([op.time_ns for op in ops]),
    )


def ended_ios(channels: BdevChannels) -> int:
    """I/Os that completed or failed, on all channels: whether anything changed, for much less than bdev_totals()."""
    c: cython.int
    op: cython.int
    s: OpStatsPtr
    ended: uint64_t = 0
    for c in range(channels.count):
        for op in range(OP_COUNT):
            s = address(channels.channels[c].ops[op])
            ended += atomics.relaxed_u64(address(s.completed)) + atomics.relaxed_u64(address(s.failed))
    return ended


@cython.cfunc
def _op_totals(channels: BdevChannels, op: cython.int, cuts: list[int]) -> object:
    c: cython.int
    k: cython.int
    s: OpStatsPtr
    submitted: uint64_t = 0
    completed: uint64_t = 0
    size: uint64_t = 0
    time_ns: uint64_t = 0
    for c in range(channels.count):
        s = address(channels.channels[c].ops[op])
        submitted += atomics.relaxed_u64(address(s.submitted))
        completed += atomics.relaxed_u64(address(s.completed))
        size += atomics.relaxed_u64(address(s.bytes))
        time_ns += atomics.relaxed_u64(address(s.time_ns))
    if not submitted:  # spares the reader what is not in any cache
        return OpTotals(0, 0, 0, 0, [0] * (len(cuts) + 1), [0] * 8)
    errors: list[int] = []
    for k in range(8):
        n: uint64_t = 0
        for c in range(channels.count):
            n += atomics.relaxed_u64(address(channels.channels[c].errors[op][k]))
        errors.append(n)
    return OpTotals(submitted, completed, size, time_ns, _fold(channels, op, cuts), errors)


@cython.cfunc
def _fold(channels: BdevChannels, op: cython.int, cuts: list[int]) -> list[int]:
    c: cython.int
    i: cython.int = 0
    end: cython.int
    n: uint64_t = 0
    folded: list[int] = []
    for cut in [*cuts, HIST_BUCKETS]:
        end = min(cut, HIST_BUCKETS)
        while i < end:
            for c in range(channels.count):
                n += atomics.relaxed_u64(address(channels.channels[c].ops[op].buckets[i]))
            i += 1
        folded.append(n)
    return folded


def _busy_ns(ch: ChannelPtr) -> uint64_t:
    """Time with I/O in flight, up to now.

    The poller may end or begin a time in flight between two reads. If one has ended, busy_ns has changed or is about
    to: a changed one is read again, so that no time counts twice; for one about to change the result is
    too low for once, which the caller's maximum hides.
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
