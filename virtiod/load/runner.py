"""Loads bdevs and tells how they did, in bdevperf's terms."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from msgspec import UNSET

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.controllers import ControllerManager
from virtiod.core.errors import InvalidArgument
from virtiod.core.memory import DmaMemory
from virtiod.core.tasks import cancel, spawn
from virtiod.load.job import LoadCounters, LoadJob, LoadSpec
from virtiod.load.report import JobReport, LoadReport, figures, first_error, total
from virtiod.poller.poller import Poller

PATTERNS = ("randread", "randwrite", "randrw", "read", "write", "verify")
WRITERS = frozenset(PATTERNS) - {"randread", "read"}
DEFAULT_TIME_S = 5.0
MAX_MEMORY = 4 << 30  # bytes of buffers
PROGRESS_S = 0.25

Progress = Callable[["Snapshot"], None]


@dataclass(frozen=True)
class Workload:
    """What to do. block_size in bytes; queue_depth for each bdev and poller; time_s or total_bytes (of each bdev)
    end it, whichever comes first; rw_mix_read: percentage of reads of randrw."""

    rw: str = "randread"
    block_size: int = 4096
    queue_depth: int = 32
    time_s: float | None = None
    total_bytes: int | None = None
    rw_mix_read: int = 50
    seed: int | None = None

    def check(self) -> None:
        """Raise InvalidArgument for what no bdev could do."""
        if self.rw not in PATTERNS:
            raise InvalidArgument(f"rw {self.rw!r}: must be one of {', '.join(PATTERNS)}")
        if self.block_size < 512 or self.block_size % 512:
            raise InvalidArgument(f"block_size {self.block_size}: must be a multiple of 512")
        if not 1 <= self.queue_depth <= 65536:
            raise InvalidArgument(f"queue_depth {self.queue_depth}: must be from 1 to 65536")
        if not 0 <= self.rw_mix_read <= 100:
            raise InvalidArgument(f"rw_mix_read {self.rw_mix_read}: must be from 0 to 100")
        if self.time_s is not None and self.time_s <= 0:
            raise InvalidArgument(f"time_s {self.time_s:g}: must be positive")
        if self.total_bytes is not None and self.total_bytes < self.block_size:
            raise InvalidArgument(f"total_bytes {self.total_bytes}: must be at least block_size {self.block_size}")

    def check_bdev(self, bdev: Bdev, jobs: int) -> None:
        """Raise InvalidArgument for what this bdev can't do with so many jobs on it."""
        if self.block_size % bdev.block_size:
            raise InvalidArgument(f"block_size {self.block_size}: bdev {bdev.name} has blocks of {bdev.block_size}")
        if self.rw in WRITERS and bdev.read_only:
            raise InvalidArgument(f"rw {self.rw}: bdev {bdev.name} is read-only")
        places = jobs * self.queue_depth if self.rw == "verify" else jobs
        if bdev.size // self.block_size < places:
            raise InvalidArgument(
                f"bdev {bdev.name} of {bdev.size} bytes is too small for {places} places of {self.block_size}"
            )


@dataclass(frozen=True)
class Snapshot:
    """How far a run is. iops and latency (us, mean) are those of the last interval."""

    elapsed_s: float
    share: float
    iops: float
    mib_s: float
    latency_us: float
    failed: int


@dataclass(eq=False)
class _Job:
    bdev: Bdev
    load: LoadJob
    terminated: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def leave(self) -> None:
        """The bdev goes."""
        self.terminated = True
        self.load.stop()
        await self.done.wait()


class LoadGenerator:
    """The load generator of a daemon."""

    def __init__(
        self,
        memory: DmaMemory,
        pollers: Sequence[Poller],
        bdevs: BdevRegistry,
        controllers: ControllerManager,
    ) -> None:
        self._memory = memory
        self._pollers = pollers
        self._bdevs = bdevs
        self._controllers = controllers
        self._running: set[_Job] = set()

    async def run(
        self,
        bdevs: Sequence[str],
        workload: Workload,
        cpus: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> LoadReport:
        """Load the bdevs from the pollers on cpus (all by default); the report. Raises VirtiodError."""
        workload.check()
        if not bdevs:
            raise InvalidArgument("bdevs: none given")
        targets = [self._bdevs.get(name) for name in dict.fromkeys(bdevs)]
        pollers = [p for p in self._pollers if cpus is None or p.cpu in cpus]
        if not pollers:
            raise InvalidArgument(f"cpumask: no poller runs on cores {sorted(cpus or [])}")
        needed = len(targets) * len(pollers) * workload.queue_depth * workload.block_size
        if needed > MAX_MEMORY:
            raise InvalidArgument(f"{needed >> 20} MiB of buffers are needed, at most {MAX_MEMORY >> 20} MiB are given")
        for bdev in targets:
            workload.check_bdev(bdev, len(pollers))
        with ExitStack() as stack:
            jobs = [
                self._job(stack, bdev, poller, part, len(pollers), workload)
                for bdev in targets
                for part, poller in enumerate(pollers)
            ]
            await self._controllers.publish_memory()
            started = time.monotonic()
            reporting = spawn(_report_progress(jobs, workload, started, progress), "progress") if progress else None
            try:
                await asyncio.gather(*(self._run_job(job, workload) for job in jobs))
            finally:
                await cancel(reporting)
            return _report(jobs, workload)

    def _job(self, stack: ExitStack, bdev: Bdev, poller: Poller, part: int, parts: int, workload: Workload) -> _Job:
        seed = workload.seed if workload.seed is not None else int.from_bytes(os.urandom(6))
        per_part = -(-(workload.total_bytes or 0) // (workload.block_size * parts))
        spec = LoadSpec(
            workload.rw,
            workload.block_size,
            workload.queue_depth,
            workload.rw_mix_read,
            seed & 0xFFFFFFFFFFFF,
            per_part,
            part,
            parts,
        )
        load = LoadJob(self._memory, poller, bdev.channels, bdev.size, spec)
        stack.callback(load.close)
        job = _Job(bdev, load)
        handle = bdev.open(on_remove=job.leave)
        stack.callback(handle.close)
        return job

    async def _run_job(self, job: _Job, workload: Workload) -> None:
        seconds = workload.time_s or (0.0 if workload.total_bytes else DEFAULT_TIME_S)
        self._running.add(job)
        # Shielded: the buffers must not go before the last I/O is back.
        running = spawn(job.load.run(seconds), f"load {job.bdev.name}", awaited=True)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            job.terminated = True
            job.load.stop()
            await asyncio.wait({running})
            raise
        finally:
            self._running.discard(job)
            job.done.set()

    async def stop(self) -> None:
        """End what runs; returns when its I/O is back."""
        await asyncio.gather(*(job.leave() for job in list(self._running)))


async def _report_progress(jobs: list[_Job], workload: Workload, started: float, progress: Progress) -> None:
    seconds = workload.time_s or DEFAULT_TIME_S
    last, last_done, last_time_ns = started, 0, 0
    while True:
        await asyncio.sleep(PROGRESS_S)
        now = time.monotonic()
        done, moved, time_ns, failed = (
            sum(values) for values in zip(*(job.load.progress() for job in jobs), strict=True)
        )
        share = (now - started) / seconds
        if workload.total_bytes:
            share = moved / (workload.total_bytes * len({job.bdev.name for job in jobs}))
        fresh = done - last_done
        progress(
            Snapshot(
                now - started,
                min(1.0, share),
                fresh / (now - last),
                fresh * workload.block_size / (now - last) / (1 << 20),
                (time_ns - last_time_ns) / fresh / 1000 if fresh else 0.0,
                failed,
            )
        )
        last, last_done, last_time_ns = now, done, time_ns


# ---- the report ---------------------------------------------------------------------------------


def _report(jobs: list[_Job], workload: Workload) -> LoadReport:
    counted = [(job, job.load.counters()) for job in jobs]
    return LoadReport(
        results=[_result(job, c, workload) for job, c in counted],
        core_count=len({job.load.poller.cpu for job in jobs}),
        totals=figures(total([c for _, c in counted])),
    )


def _result(job: _Job, c: LoadCounters, workload: Workload) -> JobReport:
    return JobReport(
        job=job.bdev.name,
        core_mask=f"{1 << max(job.load.poller.cpu, 0):#x}",
        workload=workload.rw,
        percentage=workload.rw_mix_read if workload.rw == "randrw" else UNSET,
        status="terminated" if job.terminated else "failed" if c.failed or c.mismatches else "finished",
        queue_depth=workload.queue_depth,
        io_size=workload.block_size,
        **vars(figures(c)),
        first_error=first_error(c),
    )
