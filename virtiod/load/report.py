"""How a load went, in bdevperf's terms, and the quantiles that bdevperf lacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.bdev.counters import quantile
from virtiod.core.described import Member
from virtiod.load.job import LoadCounters


@dataclass(kw_only=True)
class LoadFigures:
    """What was done, and how fast."""

    runtime: Annotated[float, Member("from the first I/O to the last", "s")]
    ios: Annotated[int, Member("I/Os that ended")]
    bytes: Annotated[int, Member("what they moved", "bytes")]
    iops: Annotated[float, Member("I/Os a second", "IOPS")]
    mibps: Annotated[float, Member("throughput", "MiB/s")]
    io_failed: Annotated[int, Member("I/Os that failed")]
    io_timeout: Annotated[int, Member("those of them that took too long")]
    io_mismatched: Annotated[int, Member("reads of verify that found other data than was written")]
    avg_latency_us: Annotated[float, Member("mean latency", "us")]
    min_latency_us: Annotated[float, Member("smallest latency", "us")]
    max_latency_us: Annotated[float, Member("largest latency", "us")]
    p50_latency_us: Annotated[float, Member("median latency", "us")]
    p99_latency_us: Annotated[float, Member("latency that 99 % stayed below", "us")]
    p99_9_latency_us: Annotated[float, Member("latency that 99.9 % stayed below", "us")]


@dataclass(kw_only=True)
class _Job:
    job: Annotated[str, Member("name of the bdev")]
    core_mask: Annotated[str, Member("the poller's core, as a mask: 0x and hexadecimal digits")]
    workload: Annotated[str, Member("pattern")]
    percentage: Annotated[int | UnsetType, Member("reads of randrw", "%")] = UNSET
    status: Annotated[str, Member('how it ended: "finished", "failed" (an I/O has) or "terminated" (before its time)')]
    queue_depth: Annotated[int, Member("I/Os in flight")]
    io_size: Annotated[int, Member("size of an I/O", "bytes")]


@dataclass(kw_only=True)
class JobReport(LoadFigures, _Job):
    """How it went on one bdev, from one poller."""

    first_error: Annotated[str | UnsetType, Member("the first failure's cause; absent when nothing failed")] = UNSET


@dataclass(kw_only=True)
class LoadReport:
    """How a load went."""

    results: Annotated[list[JobReport], Member("one for each bdev and poller")]
    core_count: Annotated[int, Member("cores of the pollers that were used")]
    totals: Annotated[LoadFigures, Member("all together")]


def figures(c: LoadCounters) -> LoadFigures:
    """Of one job, or of the sum of some."""
    runtime = (c.ended_ns - c.started_ns) / 1e9
    return LoadFigures(
        runtime=runtime,
        ios=c.done,
        bytes=c.bytes,
        iops=c.done / runtime if runtime > 0 else 0.0,
        mibps=c.bytes / runtime / (1 << 20) if runtime > 0 else 0.0,
        io_failed=c.failed,
        io_timeout=c.timed_out,
        io_mismatched=c.mismatches,
        avg_latency_us=c.time_ns / c.done / 1000 if c.done else 0.0,
        min_latency_us=c.min_ns / 1000,
        max_latency_us=c.max_ns / 1000,
        p50_latency_us=quantile(c.buckets, 0.5) / 1000,
        p99_latency_us=quantile(c.buckets, 0.99) / 1000,
        p99_9_latency_us=quantile(c.buckets, 0.999) / 1000,
    )


def first_error(c: LoadCounters) -> str | UnsetType:
    return os.strerror(-c.first_error) if c.first_error else UNSET


def total(counters: Sequence[LoadCounters]) -> LoadCounters:
    """The sum of some jobs, from the first one's start to the last one's end."""
    return LoadCounters(
        started_ns=min(c.started_ns for c in counters),
        ended_ns=max(c.ended_ns for c in counters),
        done=sum(c.done for c in counters),
        failed=sum(c.failed for c in counters),
        timed_out=sum(c.timed_out for c in counters),
        mismatches=sum(c.mismatches for c in counters),
        bytes=sum(c.bytes for c in counters),
        time_ns=sum(c.time_ns for c in counters),
        min_ns=min(c.min_ns for c in counters),
        max_ns=max(c.max_ns for c in counters),
        first_error=0,
        buckets=[sum(column) for column in zip(*(c.buckets for c in counters), strict=True)],
    )
