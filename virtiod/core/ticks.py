"""Ticks, in which SPDK's clients measure time: here nanoseconds of CLOCK_MONOTONIC."""

from __future__ import annotations

import time

NS_PER_S = 1_000_000_000
NS_PER_US = 1000
TICK_RATE = NS_PER_S  # of a second


def now_ns() -> int:
    """The time now, in ticks."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
