"""Token buckets: what may be taken when, and how many are kept."""

from __future__ import annotations

from virtiod.http.security.buckets import Buckets


def test_a_burst_is_taken_at_once_and_the_rest_at_the_rate() -> None:
    buckets = Buckets(rate=2, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0  # nobody else pays for it
    assert buckets.take("a", 0.25) == 0.25
    assert buckets.take("a", 0.5) == 0
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]  # no more than the burst is saved up


def test_more_than_the_burst_needs_a_full_bucket_and_is_paid_back() -> None:
    buckets = Buckets(rate=1, burst=2)
    assert buckets.take("a", 0.0, 5) == 0
    assert buckets.take("a", 0.0, 5) == 5  # until it is full again
    assert buckets.take("a", 3.0) == 1
    assert buckets.take("a", 4.0) == 0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    buckets = Buckets(rate=1, burst=1)
    assert buckets.take("a", 5.0) == 0
    assert buckets.take("a", 4.0) == 1


def test_the_number_of_keys_is_bounded_and_the_least_recent_goes() -> None:
    buckets = Buckets(rate=1, burst=1, max_keys=2)
    for key in "abac":
        buckets.take(key, 0.0)
    assert len(buckets) == 2
    assert [buckets.wait(key, 0.0) for key in "ca"] == [1, 1]
    assert buckets.wait("b", 0.0) == 0
