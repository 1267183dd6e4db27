"""The report of a load, with bdevperf's members, and the quantiles that bdevperf lacks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.bdev import Bdev
from virtiod.bdev.histogram import quantile
from virtiod.core.described import Member
from virtiod.core.memory import MIB
from virtiod.core.ticks import NS_PER_S, NS_PER_US
from virtiod.load.job import LoadCounters
from virtiod.load.workload import Workload


@dataclass(kw_only=True)
class LoadFigures:
    """How much I/O was done, and how fast."""

    runtime: Annotated[float, Member("from the first I/O to the last", "s")]
    ios: Annotated[int, Member("I/Os that ended, failed ones too; verify: its writes and its reads")]
    bytes: Annotated[int, Member("bytes of the I/Os that succeeded", "bytes")]
    iops: Annotated[float, Member("I/Os per second that succeeded", "IOPS")]
    mibps: Annotated[float, Member("throughput of those", "MiB/s")]
    io_failed: Annotated[int, Member("I/Os that failed")]
    io_timeout: Annotated[int, Member("those of io_failed that took too long")]
    io_mismatched: Annotated[int, Member("reads of verify that found other data than was written")]
    avg_latency_us: Annotated[float, Member("mean latency of all that ended, as are all latencies", "us")]
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
    """The report of a job: one bdev, from one poller."""

    keeps_writes: Annotated[bool, Member("its writes were kept until a flush, as a copy: the bdev's on_loss is keep")]
    first_error: Annotated[str | UnsetType, Member("the first failure's cause; absent when nothing failed")] = UNSET


@dataclass(kw_only=True)
class LoadReport:
    """The report of a load."""

    results: Annotated[list[JobReport], Member("one for each bdev and poller")]
    core_count: Annotated[int, Member("cores of the pollers that were used")]
    totals: Annotated[LoadFigures, Member("all together")]


def job_report(bdev: Bdev, cpu: int, terminated: bool, workload: Workload, counted: LoadCounters) -> JobReport:
    """The report of a job on a bdev from the poller on core cpu (-1: not pinned)."""
    failed = counted.io.failed or counted.mismatches
    return JobReport(
        job=bdev.name,
        core_mask=f"{1 << max(cpu, 0):#x}",
        workload=workload.rw,
        percentage=workload.rw_mix_read if workload.pattern.reads is None else UNSET,
        status="terminated" if terminated else "failed" if failed else "finished",
        queue_depth=workload.queue_depth,
        io_size=workload.block_size,
        **vars(figures(counted)),
        keeps_writes=bdev.keeps_writes,
        first_error=os.strerror(-counted.first_error) if counted.first_error else UNSET,
    )


def figures(counted: LoadCounters) -> LoadFigures:
    """The figures of one job, or of the sum of some."""
    runtime = (counted.ended_ns - counted.started_ns) / NS_PER_S
    io, latencies = counted.io, counted.latencies
    ios = io.completed + io.failed
    return LoadFigures(
        runtime=runtime,
        ios=ios,
        bytes=io.bytes,
        iops=io.completed / runtime if runtime > 0 else 0.0,
        mibps=io.bytes / runtime / MIB if runtime > 0 else 0.0,
        io_failed=io.failed,
        io_timeout=io.failures.get("timeout", 0),
        io_mismatched=counted.mismatches,
        avg_latency_us=io.time_ns / ios / NS_PER_US if ios else 0.0,
        min_latency_us=io.min_ns / NS_PER_US,
        max_latency_us=io.max_ns / NS_PER_US,
        p50_latency_us=quantile(latencies, 0.5) / NS_PER_US,
        p99_latency_us=quantile(latencies, 0.99) / NS_PER_US,
        p99_9_latency_us=quantile(latencies, 0.999) / NS_PER_US,
    )
