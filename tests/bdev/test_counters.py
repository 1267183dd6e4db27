"""Latencies are counted in the buckets that they are read from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtiod.bdev.channel import OPS, ChannelCounters, OpCounters
from virtiod.bdev.counters import RANGES, SUB_BUCKETS, BdevStats, OpStats, bucket_start, quantile
from virtiod.bdev.probe import bucket_of

BUCKETS = SUB_BUCKETS * RANGES


def test_every_bucket_begins_where_its_start_says() -> None:
    assert bucket_of(0) == 0
    for index in range(BUCKETS):
        start = bucket_start(index)
        assert bucket_of(start) == index
        if index:
            assert bucket_of(start - 1) == index - 1


def test_what_is_longer_than_the_last_bucket_is_counted_there() -> None:
    for ns in (bucket_start(BUCKETS), 1 << 40, (1 << 64) - 1):
        assert bucket_of(ns) == BUCKETS - 1


@given(st.integers(0, (1 << 38) - 1))
def test_a_bucket_is_no_wider_than_a_32nd_of_its_latencies(ns: int) -> None:
    index = bucket_of(ns)
    start, end = bucket_start(index), bucket_start(index + 1)
    assert start <= ns < end
    assert end - start <= max(1, start / 32)


@pytest.mark.parametrize(
    ("values", "q", "value"),
    [
        ([], 0.5, 0),
        ([10], 0.0, 10),
        ([10], 1.0, 10),
        ([1, 2, 3, 4], 0.5, 2),
        ([1, 2, 3, 4], 0.51, 3),
        ([1] * 99 + [31], 0.99, 1),
        ([1] * 99 + [31], 0.991, 31),
    ],
)
def test_quantiles_of_exact_buckets_are_exact(values: list[int], q: float, value: float) -> None:
    buckets = [values.count(i) for i in range(32)] + [0] * (BUCKETS - 32)
    assert quantile(buckets, q) == value


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[int], q: float) -> None:
    buckets = [0] * BUCKETS
    for value in values:
        buckets[bucket_of(value)] += 1
    true = next(v for i, v in enumerate(sorted(values)) if i + 1 >= q * len(values))
    assert abs(quantile(buckets, q) - true) <= max(1, true / 32)


def counters(minimum: int, maximum: int, n: int) -> ChannelCounters:
    op = OpCounters(n, n, 0, n * 512, n * 100, minimum, maximum, [n] + [0] * (BUCKETS - 1))
    none = OpCounters(0, 0, 0, 0, 0, 0, 0, [0] * BUCKETS)
    return ChannelCounters({o: op if o == "read" else none for o in OPS}, {o: {} for o in OPS}, n, n, n, n)


def test_channels_add_up_and_extremes_are_those_of_all() -> None:
    idle = counters(0, 0, 0)
    a, b = counters(50, 90, 2), counters(20, 60, 3)
    a.errors["read"]["io"] = 1
    b.errors["read"].update(io=2, timeout=4)
    total = BdevStats.of([idle, a, b])
    read = total.ops["read"]
    assert (read.submitted, read.bytes, read.time_ns, read.min_ns, read.max_ns) == (5, 2560, 500, 20, 90)
    assert read.buckets[0] == 5
    assert total.errors["read"] == {"io": 3, "timeout": 4}
    assert (total.in_flight, total.oldest_ns, total.busy_ns, total.weighted_ns) == (5, 3, 3, 5)


def test_nothing_has_no_quantile() -> None:
    assert OpStats().quantile(0.5) == 0
