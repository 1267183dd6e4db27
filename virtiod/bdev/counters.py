"""What a bdev counts, summed over its channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from virtiod.bdev.channel import ERRORS, OPS, ChannelCounters, OpCounters

SUB_BUCKETS = 32
RANGES = 34


def bucket_start(index: int) -> int:
    """The smallest latency, in ns, that a bucket counts."""
    span, sub = divmod(index, SUB_BUCKETS)
    return sub if span == 0 else (SUB_BUCKETS + sub) << (span - 1)


@dataclass
class OpStats:
    """One operation. Times in ns; min_ns and max_ns since the last reset, 0 when there were none."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    bytes: int = 0
    time_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (SUB_BUCKETS * RANGES))

    def add(self, other: OpCounters | OpStats) -> None:
        """Count other's I/Os too."""
        self.submitted += other.submitted
        self.completed += other.completed
        self.failed += other.failed
        self.bytes += other.bytes
        self.time_ns += other.time_ns
        self.min_ns = min((m for m in (self.min_ns, other.min_ns) if m), default=0)
        self.max_ns = max(self.max_ns, other.max_ns)
        if other.submitted and other.buckets:
            self.buckets = [a + b for a, b in zip(self.buckets, other.buckets, strict=True)]

    def quantile(self, q: float) -> float:
        """The latency (ns) that a share q of the I/Os stayed below; 0 when there were none."""
        return quantile(self.buckets, q)


def quantile(buckets: list[int], q: float) -> float:
    """The value (ns) below which a share q of what the buckets count lies: the middle of the bucket."""
    total = sum(buckets)
    if not total:
        return 0.0
    seen, last = 0, 0
    for index, count in enumerate(buckets):
        if count:
            last = index
            seen += count
            if seen >= q * total:
                break
    return (bucket_start(last) + bucket_start(last + 1) - 1) / 2


@dataclass
class BdevStats:
    """A bdev, or one channel of it.

    oldest_ns: age of the oldest I/O in flight, 0 for none. busy_ns: time with I/O in flight, on the busiest channel.
    weighted_ns: sum of the latencies of all I/Os that ended.
    """

    ops: dict[str, OpStats] = field(default_factory=lambda: {op: OpStats() for op in OPS})
    errors: dict[str, dict[str, int]] = field(default_factory=lambda: {op: {} for op in OPS})
    in_flight: int = 0
    oldest_ns: int = 0
    busy_ns: int = 0
    weighted_ns: int = 0

    @classmethod
    def of(cls, channels: Iterable[ChannelCounters | BdevStats], latencies: bool = True) -> BdevStats:
        """The sum over channels; without latencies they have no buckets, and neither has it."""
        total = cls() if latencies else cls(ops={op: OpStats(buckets=[]) for op in OPS})
        for c in channels:
            for op in OPS:
                total.ops[op].add(c.ops[op])
                for name, n in c.errors[op].items():
                    total.errors[op][name] = total.errors[op].get(name, 0) + n
            total.in_flight += c.in_flight
            total.oldest_ns = max(total.oldest_ns, c.oldest_ns)
            total.busy_ns = max(total.busy_ns, c.busy_ns)
            total.weighted_ns += c.weighted_ns
        return total


__all__ = ["ERRORS", "OPS", "BdevStats", "OpStats", "bucket_start", "quantile"]
