"""Measure a target with a load generator, without a daemon."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec

from rpc_client.tables import table as render
from virtiod.bdev.keeping import OnLoss
from virtiod.controllers import AttachRequest
from virtiod.controllers.device import DEFAULT_VQ_SIZE
from virtiod.core import cmdline
from virtiod.core.cmdline import Opt
from virtiod.core.counted import counted
from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument
from virtiod.core.logtext import logged
from virtiod.core.outqueue import OutputQueue, output_of
from virtiod.core.sizes import parse_size
from virtiod.core.tasks import spawn
from virtiod.load.report import LoadFigures, LoadReport
from virtiod.load.runner import Snapshot
from virtiod.load.workload import DEFAULT_RW, PATTERNS, Workload
from virtiod.poller.poller import POLL_MODES
from virtiod.system import System
from virtiod.transports.table import trtype_of

__all__ = ["add_arguments", "run"]

BAR = 30


@dataclass(frozen=True)
class PerfOptions:
    """memory_mib: MiB. total_bytes: bytes of each target, block_size: of an I/O."""

    targets: Annotated[
        list[str],
        Opt(
            "targets",
            "socket of a vhost-user-blk target, or address of a virtio-blk PCI device (0000:00:05.0); either with "
            "scsi: before it for the disks of a SCSI host; or null:SIZE, to measure the load generator itself",
            "TARGET",
        ),
    ]
    rw: Annotated[str, Opt("-w/--rw", "access pattern (default: %(default)s)", choices=tuple(PATTERNS))] = DEFAULT_RW
    block_size: Annotated[
        int, Opt("-o/--block-size", "size of an I/O (default: %(default)s)", "SIZE", convert=parse_size)
    ] = Workload.block_size
    queue_depth: Annotated[
        int, Opt("-q/--queue-depth", "I/Os in flight on each target and poller (default: %(default)s)", "N")
    ] = Workload.queue_depth
    time_s: Annotated[float | None, Opt("-t/--time", "seconds to run (default: 5, without --total-bytes)", "S")] = None
    total_bytes: Annotated[
        int | None, Opt("--total-bytes", "bytes to transfer on each target", "SIZE", convert=parse_size)
    ] = None
    rw_mix_read: Annotated[
        int, Opt("-M/--rw-mix-read", "share of reads in randrw (default: %(default)s)", "PERCENT")
    ] = Workload.rw_mix_read
    seed: Annotated[int | None, Opt("--seed", "seed of addresses and data (default: random)")] = None
    cpus: Annotated[
        tuple[int, ...],
        Opt("-m/--cpumask", "cores to poll on (default: %(default)s)", "MASK", convert=parse_cpumask, default="0x1"),
    ] = (0,)
    poll_mode: Annotated[str, Opt("--poll-mode", "as of `virtiod run` (default: %(default)s)", choices=POLL_MODES)] = (
        "adaptive"
    )
    vq_count: Annotated[int | None, Opt("--vq-count", "number of virtqueues (default: one for each poller)", "N")] = (
        None
    )
    vq_size: Annotated[
        int | None, Opt("--vq-size", f"queue size: entries of a virtqueue (default: {DEFAULT_VQ_SIZE})", "N")
    ] = None
    memory_mib: Annotated[int, Opt("-s", "MiB of DMA memory (default: 256)", "MIB")] = 256
    allow_unbind: Annotated[
        bool, Opt("--allow-unbind", "take PCI devices from the kernel's driver while perf runs")
    ] = False
    on_loss: Annotated[
        str,
        Opt(
            "--on-loss",
            "what becomes of writes that were not flushed when a target dies: keep, report or ignore, as of "
            "bdev_virtio_attach_controller; keep costs a copy of each write, and flushes (default: %(default)s)",
            choices=tuple(OnLoss),
        ),
    ] = OnLoss.IGNORE
    json: Annotated[bool, Opt("--json", "print the report as JSON, with bdevperf's keys")] = False
    yes: Annotated[bool, Opt("--yes", "allow patterns that write: they destroy the data on the target")] = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `virtiod perf` to a parser."""
    cmdline.add_arguments(parser, PerfOptions)


def run(args: argparse.Namespace) -> int:
    """Runs the load; returns 0 if every I/O succeeded (and verified), and none was left out, else 1.

    What a signal ends before its time has left nothing out.
    """
    options = cmdline.options_from(PerfOptions, args)
    workload = Workload(
        rw=options.rw,
        block_size=options.block_size,
        queue_depth=options.queue_depth,
        time_s=options.time_s,
        total_bytes=options.total_bytes,
        rw_mix_read=options.rw_mix_read,
        seed=options.seed,
    )
    workload.check()
    if workload.writes and not options.yes and any(not t.startswith("null:") for t in options.targets):
        raise InvalidArgument(f"--rw {options.rw} destroys the data on the target: add --yes to allow it")
    with logged():
        report, interrupted = asyncio.run(_measure(options, workload))
    print(json.dumps(msgspec.to_builtins(report), indent=2) if options.json else table(report))
    failed = report.totals.io_failed or report.totals.io_mismatched
    return 1 if failed or (any(job.status != "finished" for job in report.results) and not interrupted) else 0


async def _measure(options: PerfOptions, workload: Workload) -> tuple[LoadReport, bool]:
    """The report, and whether a signal ended the load."""
    interrupted = False
    system = System(options.cpus, options.memory_mib, options.poll_mode, allow_unbind=options.allow_unbind)
    system.start()
    printed = OutputQueue(output_of(sys.stderr))  # a terminal that was stopped does not hold up the load
    try:
        names = [name for n, target in enumerate(options.targets) for name in await _add(system, options, n, target)]
        progress = partial(draw, printed) if sys.stderr.isatty() else None
        running = spawn(system.load.run(names, workload, progress=progress), "load", awaited=True)
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            spawn(system.load.stop(), "end the load")

        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, interrupt)
        report = await running
        if progress:
            printed.put(b"\n")
        return report, interrupted
    finally:
        await system.stop()
        printed.close()


async def _add(system: System, options: PerfOptions, number: int, target: str) -> list[str]:
    """Attaches a target; returns the names of its bdevs."""
    if target.startswith("null:"):
        return [system.nulls.create(f"Null{number}", parse_size(target[5:]) // 512).name]
    kind, traddr = ("scsi", target[5:]) if target.startswith("scsi:") else ("blk", target)
    name = f"Virtio{kind.capitalize()}{number}"
    names = await system.controllers.attach(
        AttachRequest(
            name,
            trtype_of(traddr),
            traddr,
            kind,
            options.vq_count,
            options.vq_size,
            on_loss=OnLoss(options.on_loss),
        )
    )
    if not names:
        raise InvalidArgument(f"{target}: no disks were found")
    return names


def draw(printed: OutputQueue, now: Snapshot) -> None:
    """Prints the progress in one line, over the last one."""
    filled = round(now.share * BAR)
    failed = f"  {counted(now.failed, 'error')}" if now.failed else ""
    text = (
        f"\r[{'#' * filled}{'.' * (BAR - filled)}] {now.share:4.0%}  {now.iops / 1000:9.1f} kIOPS  "
        f"{now.mib_s:8.0f} MiB/s  {now.latency_us:8.1f} us{failed}"
    )
    printed.put(f"{text}\x1b[K".encode())


def table(report: LoadReport) -> str:
    """The report as a table: a line for each job, then the totals. Latencies in us."""
    header = (
        "bdev",
        "core",
        "status",
        "kIOPS",
        "MiB/s",
        "mean",
        "p50",
        "p99",
        "p99.9",
        "max",
        "errors",
        "mismatched",
    )
    rows = [(job.job, str(int(job.core_mask, 16).bit_length() - 1), job.status, *_cells(job)) for job in report.results]
    if len(rows) > 1:
        rows.append(("all", "", "", *_cells(report.totals)))
    kept = sum(job.keeps_writes for job in report.results)
    writes = (
        f"Writes were kept until a flush by {kept} of {len(report.results)} jobs." if kept else "Writes were not kept."
    )
    return f"{render(header, rows)}\nLatencies are in us. {writes}"


def _cells(f: LoadFigures) -> tuple[str, ...]:
    latencies = (f.avg_latency_us, f.p50_latency_us, f.p99_latency_us, f.p99_9_latency_us, f.max_latency_us)
    return (
        f"{f.iops / 1000:.1f}",
        f"{f.mibps:.0f}",
        *(f"{latency:.1f}" for latency in latencies),
        str(f.io_failed),
        str(f.io_mismatched),
    )
