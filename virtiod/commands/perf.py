"""Measure a target with a load generator, without a daemon."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

import msgspec

from rpc_client.tables import table as render
from virtiod.controllers import AttachRequest
from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument
from virtiod.core.sizes import parse_size
from virtiod.core.tasks import spawn
from virtiod.load.report import LoadFigures, LoadReport
from virtiod.load.runner import Snapshot
from virtiod.load.workload import PATTERNS, Workload
from virtiod.pci.devices import is_address
from virtiod.system import System

__all__ = ["add_arguments", "run"]

BAR = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="socket of a vhost-user-blk target, or address of a virtio-blk PCI device (0000:00:05.0); either with "
        "scsi: before it for the disks of a SCSI host; or null:SIZE, to measure the load generator itself",
    )
    parser.add_argument(
        "-w", "--rw", choices=tuple(PATTERNS), default="randread", help="access pattern (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--block-size", default="4096", metavar="SIZE", help="size of an I/O (default: %(default)s)"
    )
    parser.add_argument(
        "-q",
        "--queue-depth",
        type=int,
        default=32,
        metavar="N",
        help="I/Os in flight on each target and poller (default: %(default)s)",
    )
    parser.add_argument(
        "-t", "--time", type=float, metavar="S", help="seconds to run (default: 5, without --total-bytes)"
    )
    parser.add_argument("--total-bytes", metavar="SIZE", help="bytes to transfer on each target")
    parser.add_argument(
        "-M",
        "--rw-mix-read",
        type=int,
        default=50,
        metavar="PERCENT",
        help="share of reads in randrw (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, help="seed of addresses and data (default: random)")
    parser.add_argument(
        "-m", "--cpumask", metavar="MASK", default="0x1", help="cores to poll on (default: %(default)s)"
    )
    parser.add_argument(
        "--poll-mode",
        choices=("adaptive", "busy"),
        default="adaptive",
        help="as of `virtiod run` (default: %(default)s)",
    )
    parser.add_argument("--vq-count", type=int, metavar="N", help="number of virtqueues (default: one for each poller)")
    parser.add_argument("--vq-size", type=int, metavar="N", help="queue size: entries of a virtqueue (default: 512)")
    parser.add_argument(
        "-s", dest="memory", type=int, default=256, metavar="MIB", help="MiB of DMA memory (default: 256)"
    )
    parser.add_argument(
        "--allow-unbind", action="store_true", help="take PCI devices from the kernel's driver while perf runs"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, with bdevperf's keys")
    parser.add_argument(
        "--yes", action="store_true", help="allow patterns that write: they destroy the data on the target"
    )


def run(args: argparse.Namespace) -> int:
    """0 if every I/O succeeded (and verified), else 1."""
    workload = Workload(
        rw=args.rw,
        block_size=parse_size(args.block_size),
        queue_depth=args.queue_depth,
        time_s=args.time,
        total_bytes=parse_size(args.total_bytes) if args.total_bytes else None,
        rw_mix_read=args.rw_mix_read,
        seed=args.seed,
    )
    workload.check()
    if workload.writes and not args.yes and any(not t.startswith("null:") for t in args.targets):
        raise InvalidArgument(f"--rw {args.rw} destroys the data on the target: add --yes to allow it")
    report = asyncio.run(_measure(args, workload))
    print(json.dumps(msgspec.to_builtins(report), indent=2) if args.json else table(report))
    return 1 if report.totals.io_failed or report.totals.io_mismatched else 0


async def _measure(args: argparse.Namespace, workload: Workload) -> LoadReport:
    system = System(parse_cpumask(args.cpumask), args.memory, args.poll_mode, allow_unbind=args.allow_unbind)
    system.start()
    try:
        names = [name for n, target in enumerate(args.targets) for name in await _add(system, args, n, target)]
        progress = draw if sys.stderr.isatty() else None
        running = spawn(system.load.run(names, workload, progress=progress), "load", awaited=True)
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, lambda: spawn(system.load.stop(), "end the load"))
        report = await running
        if progress:
            print(file=sys.stderr)
        return report
    finally:
        await system.stop()


async def _add(system: System, args: argparse.Namespace, number: int, target: str) -> list[str]:
    """The bdevs of a target."""
    if target.startswith("null:"):
        return [system.nulls.create(f"Null{number}", parse_size(target[5:]) // 512).name]
    kind, traddr = ("scsi", target[5:]) if target.startswith("scsi:") else ("blk", target)
    trtype = "pci" if is_address(traddr) else "user"
    name = f"Virtio{kind.capitalize()}{number}"
    names = await system.controllers.attach(AttachRequest(name, trtype, traddr, kind, args.vq_count, args.vq_size))
    if not names:
        raise InvalidArgument(f"{target}: no disks were found")
    return names


def draw(now: Snapshot) -> None:
    """One line, drawn over the last one."""
    filled = round(now.share * BAR)
    failed = f"  {now.failed} errors" if now.failed else ""
    text = (
        f"\r[{'#' * filled}{'.' * (BAR - filled)}] {now.share:4.0%}  {now.iops / 1000:9.1f} kIOPS  "
        f"{now.mib_s:8.0f} MiB/s  {now.latency_us:8.1f} us{failed}"
    )
    print(text, end="\x1b[K", file=sys.stderr, flush=True)


def table(report: LoadReport) -> str:
    """The report for people: a line for each job, then all together. Latencies in us."""
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
    return f"{render(header, rows)}\nLatencies are in us."


def _cells(f: LoadFigures) -> tuple[str, ...]:
    latencies = (f.avg_latency_us, f.p50_latency_us, f.p99_latency_us, f.p99_9_latency_us, f.max_latency_us)
    return (
        f"{f.iops / 1000:.1f}",
        f"{f.mibps:.0f}",
        *(f"{latency:.1f}" for latency in latencies),
        str(f.io_failed),
        str(f.io_mismatched),
    )
