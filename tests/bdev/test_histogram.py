"""Latencies are counted in the buckets that they are read from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtiod.bdev.histogram import (
    BUCKETS,
    STARTS,
    SUB_BITS,
    bucket_of,
    bucket_start,
    cut,
    place_of,
    quantile,
    range_of,
)


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


@given(st.integers(0, (1 << 38) - 1))
def test_a_cut_is_the_edge_that_is_nearest_to_its_bound(ns: int) -> None:
    edges = [*STARTS, bucket_start(BUCKETS)]
    assert abs(edges[cut(ns)] - ns) == min(abs(edge - ns) for edge in edges)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, SUB_BITS))
def test_a_place_says_its_range_and_where_in_it_a_value_is(value: int, sub_bits: int) -> None:
    span, sub = divmod(place_of(value, sub_bits), 1 << sub_bits)
    assert range_of(value, sub_bits) == span
    width = 1 << max(0, span - 1)
    start = sub if span == 0 else ((1 << sub_bits) + sub) * width
    assert start <= value < start + width


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


def test_of_coarse_buckets_too_a_quantile_lies_in_its_bucket() -> None:
    starts, counts = [0, 256, 320, 1000], [1, 8, 0, 1]
    assert 0 <= quantile(counts, 0.01, starts) < 256
    assert 256 <= quantile(counts, 0.5, starts) < 320
    assert quantile(counts, 0.99, starts) == 1000  # the last bucket has no end
    found = [quantile(counts, q / 100, starts) for q in range(101)]
    assert found == sorted(found)


def test_the_shape_is_that_of_spdk_with_granularity_5() -> None:
    assert (SUB_BITS, BUCKETS, bucket_start(BUCKETS)) == (5, 34 * 32, 1 << 38)
