"""Ticks, in which SPDK's clients measure time: here nanoseconds of CLOCK_MONOTONIC."""

from __future__ import annotations

from virtiod.core import clock

NS_PER_S = 1_000_000_000
NS_PER_US = 1000
TICK_RATE = NS_PER_S  # of a second


def now_ns() -> int:
    """The time now, in ticks."""
    return clock.read_ns()


def now_s() -> float:
    """The same in seconds."""
    return clock.read_ns() / NS_PER_S
