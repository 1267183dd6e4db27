"""I/O statistics as bdev_get_iostat shows them.

What RPC clients reset is a baseline kept here: the bdevs' own counters only ever grow, so that metrics made from them
never go back. Only the smallest and largest latencies, which metrics do not use, are reset in the data plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import BdevStats, OpStats
from virtiod.bdev.registry import BdevRegistry
from virtiod.core.saved import SavedCall

DEFAULT_QD_PERIOD_US = 1000


@dataclass
class _Baseline:
    total: BdevStats = field(default_factory=BdevStats)
    channels: dict[int, BdevStats] = field(default_factory=dict)  # by poller id
    errors: dict[str, int] = field(default_factory=dict)


_NEVER = _Baseline()  # of a bdev that was not reset
_NO_OPS = OpStats()


class IoStats:
    """The view that RPC clients have of all bdevs' statistics."""

    def __init__(self, bdevs: BdevRegistry) -> None:
        self._bdevs = bdevs
        self._baselines: WeakKeyDictionary[Bdev, _Baseline] = WeakKeyDictionary()
        self._qd_periods: WeakKeyDictionary[Bdev, int] = WeakKeyDictionary()

    def set_qd_period(self, bdev: Bdev, period_us: int) -> None:
        """0 hides the queue depth. What is shown is exact, whatever the period."""
        self._qd_periods[bdev] = period_us

    def qd_period(self, bdev: Bdev) -> int:
        return self._qd_periods.get(bdev, DEFAULT_QD_PERIOD_US)

    def saved_calls(self) -> Iterator[SavedCall]:
        for bdev in self._bdevs.list():
            period = self.qd_period(bdev)
            if period != DEFAULT_QD_PERIOD_US:
                yield SavedCall("bdev_set_qd_sampling_period", {"name": bdev.name, "period": period})

    def device(self, bdev: Bdev) -> dict[str, Any]:
        """Members of a bdev, without its name."""
        stats = bdev.stats(latencies=False)
        baseline = self._baselines.get(bdev) or _NEVER
        shown = _ops(stats, baseline.total)
        errors = {status: count - baseline.errors.get(status, 0) for status, count in _errors(stats).items()}
        if any(errors.values()):
            shown["io_error"] = {status: count for status, count in errors.items() if count}
        period = self.qd_period(bdev)
        if period:
            shown["queue_depth_polling_period"] = period
            shown["queue_depth"] = stats.in_flight
            shown["io_time"] = stats.busy_ns // 1000
            shown["weighted_io_time"] = stats.weighted_ns // 1000
        shown["driver_specific"] = {
            "num_flush_ops": stats.ops["flush"].completed - baseline.total.ops["flush"].completed,
            "num_write_zeroes_ops": stats.ops["write_zeroes"].completed - baseline.total.ops["write_zeroes"].completed,
            "oldest_io_ticks": stats.oldest_ns,
        }
        return shown

    def channels(self, bdev: Bdev) -> list[dict[str, Any]]:
        """The same for each channel, by thread id."""
        baseline = self._baselines.get(bdev) or _NEVER
        return [
            {"thread_id": poller.id, **_ops(stats, baseline.channels.get(poller.id) or _NEVER.total)}
            for poller, stats in bdev.channel_stats(latencies=False)
        ]

    def reset(self, bdev: Bdev, mode: str) -> None:
        """mode: "all", "maxmin" (latencies), "error" (error counts) or "none"."""
        baseline = self._baselines.setdefault(bdev, _Baseline())
        if mode == "all":
            baseline.total = bdev.stats(latencies=False)
            baseline.channels = {poller.id: stats for poller, stats in bdev.channel_stats(latencies=False)}
        if mode in {"all", "maxmin"}:
            bdev.reset_extremes()
        if mode in {"all", "error"}:
            baseline.errors = _errors(bdev.stats(latencies=False))


def _ops(stats: BdevStats, base: BdevStats) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    # SPDK's "copy" has no counterpart here, its clients want the members all the same.
    for name, bytes_name, op in (
        ("read", "bytes_read", "read"),
        ("write", "bytes_written", "write"),
        ("unmap", "bytes_unmapped", "unmap"),
        ("copy", "bytes_copied", ""),
    ):
        now, then = stats.ops.get(op, _NO_OPS), base.ops.get(op, _NO_OPS)
        shown[bytes_name] = now.bytes - then.bytes
        shown[f"num_{name}_ops"] = now.completed - then.completed
        shown[f"{name}_latency_ticks"] = now.time_ns - then.time_ns
        shown[f"max_{name}_latency_ticks"] = now.max_ns
        shown[f"min_{name}_latency_ticks"] = now.min_ns
    return shown


def _errors(stats: BdevStats) -> dict[str, int]:
    """Failed I/Os by status, of all operations."""
    total: dict[str, int] = {}
    for counts in stats.errors.values():
        for status, count in counts.items():
            total[status] = total.get(status, 0) + count
    return total
