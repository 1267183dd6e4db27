"""Loads bdevs and reports it in bdevperf's terms."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.bdev.use import Access, Use, against_writing
from virtiod.controllers import ControllerManager
from virtiod.core.errors import Busy, InvalidArgument
from virtiod.core.memory import MIB, DmaMemory
from virtiod.core.tasks import cancel, spawn
from virtiod.core.ticks import NS_PER_US
from virtiod.load.job import LoadJob, LoadProgress, counters_of
from virtiod.load.report import LoadReport, figures, job_report
from virtiod.load.workload import JobSpec, Workload
from virtiod.poller.poller import Poller

DEFAULT_TIME_S = 5.0
MAX_MEMORY = 4096 * MIB  # of buffers
PROGRESS_S = 0.25
SEED_MASK = (1 << 48) - 1

Progress = Callable[["Snapshot"], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run. iops and mib_s are of I/Os that succeeded in the last interval.

    latency: the mean of all that ended in it (us). failed: I/Os, since the start.
    """

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
        """Ends the load, and returns when it has."""
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
        force: bool = False,
    ) -> LoadReport:
        """Loads the bdevs from the pollers on cpus (all by default); returns the report. Raises VirtiodError.

        One that writes has its bdevs for itself: Busy if somebody uses one, or relies on its data, and nobody is let in
        while it runs; reading loads are. With force it writes whoever uses them, and others may begin to.
        """
        workload.check()
        if not bdevs:
            raise InvalidArgument("bdevs: none given")
        targets = list(dict.fromkeys(self._bdevs.get(name) for name in bdevs))  # a bdev has several names
        pollers = [p for p in self._pollers if cpus is None or p.cpu in cpus]
        if not pollers:
            raise InvalidArgument(f"cpumask: no poller runs on cores {sorted(cpus or [])}")
        needed = len(targets) * len(pollers) * workload.queue_depth * workload.block_size
        if needed > MAX_MEMORY:
            raise InvalidArgument(
                f"{needed // MIB} MiB of buffers are needed, at most {MAX_MEMORY // MIB} MiB are given"
            )
        for bdev in targets:
            workload.check_bdev(bdev, len(pollers))
            if workload.writes:
                _check_unused(bdev, self._bdevs.uses(bdev), workload, force)
        with ExitStack() as stack:
            # They are open before anything else can run: of two loads that begin at once one sees the other.
            jobs = [job for bdev in targets for job in self._jobs(stack, bdev, pollers, workload, force)]
            await self._controllers.publish_memory()
            started = time.monotonic()
            reporting = spawn(_report_progress(jobs, workload, started, progress), "progress") if progress else None
            try:
                await asyncio.gather(*(self._run_job(job, workload) for job in jobs))
            finally:
                await cancel(reporting)
            return _report(jobs, workload)

    def _jobs(
        self, stack: ExitStack, bdev: Bdev, pollers: Sequence[Poller], workload: Workload, force: bool
    ) -> list[_Job]:
        """Opens the bdev for a job from each poller, until the stack is unwound."""
        jobs: list[_Job] = []
        access = Access.WRITE if workload.writes else Access.READ
        use = Use("load", "load", workload.rw, access, exclusive=workload.writes and not force)

        async def leave() -> None:
            await asyncio.gather(*(job.leave() for job in jobs))

        stack.callback(bdev.open(lambda: use, on_remove=leave).close)
        for part, poller in enumerate(pollers):
            seed = workload.seed if workload.seed is not None else int.from_bytes(os.urandom(6))
            spec = JobSpec(workload, bdev.size, seed & SEED_MASK, workload.ios_of(len(pollers)), part, len(pollers))
            load = LoadJob(self._memory, poller, bdev.channels, spec)
            stack.callback(load.close, self._controllers.quarantine.free)
            jobs.append(_Job(bdev, load))
            stack.callback(jobs[-1].done.set)  # of one that never ran, too
        return jobs

    async def _run_job(self, job: _Job, workload: Workload) -> None:
        seconds = workload.time_s or (0.0 if workload.total_bytes else DEFAULT_TIME_S)
        self._running.add(job)
        # Shielded: the buffers must not be freed before the last I/O has ended.
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
        """Ends the loads that run; returns when their I/O has ended."""
        await asyncio.gather(*(job.leave() for job in list(self._running)))


def _check_unused(bdev: Bdev, uses: Sequence[Use], workload: Workload, force: bool) -> None:
    """Raises Busy if a load must not write to the bdev without force."""
    why = against_writing(uses)
    if why and not force:
        raise Busy(
            f"rw {workload.rw} destroys data, and bdev {bdev.name} is {why}; with force it is loaded all the same"
        )
    if why:
        log.warning("load %s writes to bdev %s, by force: it is %s", workload.rw, bdev.name, why)


async def _report_progress(jobs: list[_Job], workload: Workload, started: float, progress: Progress) -> None:
    seconds = workload.time_s or (0.0 if workload.total_bytes else DEFAULT_TIME_S)
    wanted = workload.total_ios(len({job.bdev for job in jobs}), len({job.load.poller for job in jobs}))
    last, before = started, LoadProgress(0, 0, 0, 0)
    while True:
        await asyncio.sleep(PROGRESS_S)
        now = time.monotonic()
        so_far = LoadProgress(*map(sum, zip(*(job.load.progress() for job in jobs), strict=True)))
        share = max(so_far.ios / wanted if wanted else 0.0, (now - started) / seconds if seconds else 0.0)
        fresh = so_far.ios - before.ios
        progress(
            Snapshot(
                now - started,
                min(1.0, share),
                (fresh - (so_far.failed - before.failed)) / (now - last),
                (so_far.bytes - before.bytes) / (now - last) / MIB,
                (so_far.time_ns - before.time_ns) / fresh / NS_PER_US if fresh else 0.0,
                so_far.failed,
            )
        )
        last, before = now, so_far


def _report(jobs: list[_Job], workload: Workload) -> LoadReport:
    return LoadReport(
        results=[
            job_report(job.bdev, job.load.poller.cpu, job.terminated, workload, job.load.counters()) for job in jobs
        ],
        core_count=len({job.load.poller.cpu for job in jobs}),
        totals=figures(counters_of([job.load for job in jobs])),
    )
