"""How long RPC calls took: a histogram for each method, since the start."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

# Upper bounds in seconds, 1-2-5 from 100 us to 10 s; what took longer is counted past the last.
BOUNDS_S = (*(m / 10**e for e in (4, 3, 2, 1, 0) for m in (1, 2, 5)), 10.0)


@dataclass
class Timing:
    """The calls of one method. counts[i]: those that took up to BOUNDS_S[i], and longer than the bound before."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0


class Timings:
    """An observer of the dispatcher, which names known methods only: their number is bounded."""

    def __init__(self) -> None:
        self.methods: dict[str, Timing] = {}

    def add(self, method: str, seconds: float, _code: int) -> None:
        timing = self.methods.setdefault(method, Timing())
        timing.counts[bisect_left(BOUNDS_S, seconds)] += 1
        timing.total_s += seconds
