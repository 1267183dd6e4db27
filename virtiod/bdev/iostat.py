"""I/O statistics as bdev_get_iostat shows them.

What RPC clients reset is a baseline kept here: the bdevs' own counters only ever grow, so that metrics made from them
never decrease. Only the smallest and largest latencies, which metrics do not use, are reset in the data plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated
from weakref import WeakKeyDictionary

from msgspec import UNSET, UnsetType

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import NO_IO, NOTHING, BdevCounters
from virtiod.bdev.registry import BdevRegistry
from virtiod.core.described import Member
from virtiod.core.saved import SavedCall
from virtiod.core.ticks import NS_PER_US

DEFAULT_QD_PERIOD_US = 1000

Bytes = Annotated[int, Member("of I/Os that succeeded", "bytes")]
Ops = Annotated[int, Member("I/Os that succeeded")]
Latency = Annotated[int, Member("sum of the latencies of I/Os that succeeded", "ticks")]
MaxLatency = Annotated[int, Member("largest latency of those; 0 for none", "ticks")]
MinLatency = Annotated[int, Member("smallest latency of those; 0 for none", "ticks")]


@dataclass(kw_only=True)
class OpsIoStat:
    """What each operation did since the last reset; what failed is counted in io_error only. Copies are never done."""

    bytes_read: Bytes
    num_read_ops: Ops
    read_latency_ticks: Latency
    max_read_latency_ticks: MaxLatency
    min_read_latency_ticks: MinLatency
    bytes_written: Bytes
    num_write_ops: Ops
    write_latency_ticks: Latency
    max_write_latency_ticks: MaxLatency
    min_write_latency_ticks: MinLatency
    bytes_unmapped: Bytes
    num_unmap_ops: Ops
    unmap_latency_ticks: Latency
    max_unmap_latency_ticks: MaxLatency
    min_unmap_latency_ticks: MinLatency
    bytes_copied: Annotated[int, Member("always 0", "bytes")]
    num_copy_ops: Annotated[int, Member("always 0")]
    copy_latency_ticks: Annotated[int, Member("always 0", "ticks")]
    max_copy_latency_ticks: Annotated[int, Member("always 0", "ticks")]
    min_copy_latency_ticks: Annotated[int, Member("always 0", "ticks")]


@dataclass(kw_only=True)
class _Named:
    name: Annotated[str, Member("name of the bdev")]


@dataclass(kw_only=True)
class _Numbered:
    thread_id: Annotated[int, Member("number of the poller, from 1")]


@dataclass(kw_only=True)
class ChannelIoStat(OpsIoStat, _Numbered):
    """A bdev on one poller."""


@dataclass(kw_only=True)
class OtherIoStat:
    """Statistics that SPDK has no members for."""

    num_flush_ops: Ops
    num_write_zeroes_ops: Ops
    oldest_io_ticks: Annotated[int, Member("age of the oldest I/O in flight; 0 for none", "ticks")]


@dataclass(kw_only=True)
class BdevIoStat(OpsIoStat, _Named):
    """A bdev. A queue depth and its times are shown unless bdev_set_qd_sampling_period has hidden them."""

    io_error: Annotated[
        dict[str, int] | UnsetType, Member("I/Os that failed, by status; absent when there are none")
    ] = UNSET
    queue_depth_polling_period: Annotated[
        int | UnsetType, Member("as bdev_set_qd_sampling_period has set it", "us")
    ] = UNSET
    queue_depth: Annotated[int | UnsetType, Member("I/Os in flight")] = UNSET
    io_time: Annotated[int | UnsetType, Member("time with I/O in flight", "us")] = UNSET
    weighted_io_time: Annotated[
        int | UnsetType, Member("sum of the latencies of all I/Os that ended, failed ones too", "us")
    ] = UNSET
    driver_specific: Annotated[OtherIoStat, Member("more of virtiod's own")]


@dataclass
class _Baseline:
    """What was counted when it was last reset."""

    total: BdevCounters = NOTHING
    channels: dict[int, BdevCounters] = field(default_factory=dict)  # by poller id
    errors: dict[str, int] = field(default_factory=dict)  # by status


_NEVER = _Baseline()  # of a bdev that was not reset


class IoStats:
    """The view that RPC clients have of all bdevs' statistics."""

    def __init__(self, bdevs: BdevRegistry) -> None:
        self._bdevs = bdevs
        self._baselines: WeakKeyDictionary[Bdev, _Baseline] = WeakKeyDictionary()
        self._qd_periods: WeakKeyDictionary[Bdev, int] = WeakKeyDictionary()

    def set_qd_period(self, bdev: Bdev, period_us: int) -> None:
        """Sets the period in microseconds; 0 hides the queue depth. What is shown is exact, whatever the period."""
        self._qd_periods[bdev] = period_us

    def qd_period(self, bdev: Bdev) -> int:
        """The period in microseconds; 0 when the queue depth is hidden."""
        return self._qd_periods.get(bdev, DEFAULT_QD_PERIOD_US)

    def saved_calls(self) -> Iterator[SavedCall]:
        """The calls that set the periods that are not the default."""
        for bdev in self._bdevs.list():
            period = self.qd_period(bdev)
            if period != DEFAULT_QD_PERIOD_US:
                yield SavedCall("bdev_set_qd_sampling_period", {"name": bdev.name, "period": period})

    def device(self, bdev: Bdev) -> BdevIoStat:
        """The statistics of a bdev, over all its channels."""
        stats = bdev.stats()
        baseline = self._baselines.get(bdev) or _NEVER
        errors = {status: count - baseline.errors.get(status, 0) for status, count in stats.failures.items()}
        period = self.qd_period(bdev)
        flushes, zeroes = (
            stats.ops[op].completed - baseline.total.ops[op].completed for op in ("flush", "write_zeroes")
        )
        return BdevIoStat(
            name=bdev.name,
            io_error={status: count for status, count in errors.items() if count} or UNSET,
            queue_depth_polling_period=period or UNSET,
            queue_depth=stats.in_flight if period else UNSET,
            io_time=stats.busy_ns // NS_PER_US if period else UNSET,
            weighted_io_time=stats.weighted_ns // NS_PER_US if period else UNSET,
            driver_specific=OtherIoStat(
                num_flush_ops=flushes, num_write_zeroes_ops=zeroes, oldest_io_ticks=stats.oldest_ns
            ),
            **_ops(stats, baseline.total),
        )

    def channels(self, bdev: Bdev) -> list[ChannelIoStat]:
        """The statistics of each channel of a bdev."""
        baseline = self._baselines.get(bdev) or _NEVER
        return [
            ChannelIoStat(thread_id=poller.id, **_ops(stats, baseline.channels.get(poller.id, NOTHING)))
            for poller, stats in bdev.channel_stats()
        ]

    def reset(self, bdev: Bdev, mode: str) -> None:
        """Resets statistics. mode: "all", "maxmin" (latencies), "error" (error counts) or "none"."""
        baseline = self._baselines.setdefault(bdev, _Baseline())
        if mode == "all":
            baseline.total = bdev.stats()
            baseline.channels = {poller.id: stats for poller, stats in bdev.channel_stats()}
        if mode in {"all", "maxmin"}:
            bdev.reset_extremes()
        if mode in {"all", "error"}:
            baseline.errors = bdev.stats().failures


def _ops(stats: BdevCounters, base: BdevCounters) -> dict[str, int]:
    """The members of OpsIoStat, counted since base."""
    shown: dict[str, int] = {}
    # SPDK's "copy" has no counterpart here, but its clients expect the members.
    for name, bytes_name, op in (
        ("read", "bytes_read", "read"),
        ("write", "bytes_written", "write"),
        ("unmap", "bytes_unmapped", "unmap"),
        ("copy", "bytes_copied", ""),
    ):
        now, then = stats.ops.get(op, NO_IO), base.ops.get(op, NO_IO)
        shown[bytes_name] = now.bytes - then.bytes
        shown[f"num_{name}_ops"] = now.completed - then.completed
        shown[f"{name}_latency_ticks"] = now.completed_ns - then.completed_ns
        shown[f"max_{name}_latency_ticks"] = now.completed_max_ns
        shown[f"min_{name}_latency_ticks"] = now.completed_min_ns
    return shown
