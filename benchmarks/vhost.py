#!/usr/bin/env python3
"""Measures random 4 KiB reads over vhost-user: one poller, one queue, each target on a core of its own.

    python benchmarks/vhost.py [--rounds 5] [--seconds 2] [--json FILE]

The targets are qemu-storage-daemon's null-co, the embedded null target as virtio-blk and as virtio-scsi, and no target
at all (a null bdev, which shows what the load generator itself costs). Each queue depth is measured on all of them in
turn, so that a noisy moment affects all of them. The results are medians in kIOPS, with the smallest and the largest;
a ratio is the median of the ratios of all rounds. Use two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

DEPTHS = (1, 32, 128)
SIZE = 1 << 30
START_S = 10.0
QSD, NOTHING = "qemu-storage-daemon null-co", "no target (null bdev)"
EMBEDDED, SCSI = "embedded null target", "embedded null target, scsi"
RATIOS = ((EMBEDDED, QSD), (SCSI, EMBEDDED))


@contextmanager
def running(command: list[str], path: str) -> Iterator[None]:
    """A target that listens at path."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not listens(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen at {path}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


def listens(path: str) -> bool:
    """By /proc: connecting would occupy a target that takes one front-end at a time."""
    return any(line.split()[-1] == path and line.split()[3] == "00010000" for line in Path("/proc/net/unix").open())


def targets(folder: str, cpu: int) -> dict[str, tuple[list[str], str]]:
    """Command and what `virtiod perf` is told, by name."""
    qsd, own, scsi = f"{folder}/q.sock", f"{folder}/v.sock", f"{folder}/s.sock"
    embedded = [sys.executable, "-m", "virtiod.cli", "target", "-m", f"[{cpu}]"]
    return {
        QSD: (
            [
                *("taskset", "-c", str(cpu), "qemu-storage-daemon", "--object"),
                *("iothread,id=t,poll-max-ns=1000000", "--blockdev"),  # it polls too: at its best
                f"driver=null-co,node-name=n,size={SIZE},read-zeroes=off",
                "--export",
                f"vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={qsd},writable=on,num-queues=1,iothread=t",
            ],
            qsd,
        ),
        EMBEDDED: ([*embedded, own, "--null", str(SIZE)], own),
        SCSI: ([*embedded, scsi, "--scsi", f"0:0=null:{SIZE}"], f"scsi:{scsi}"),
        NOTHING: ([], f"null:{SIZE}"),
    }


def measure(what: str, depth: int, seconds: float, cpu: int) -> float:
    """IOPS of one run."""
    command = [sys.executable, "-m", "virtiod.cli", "perf", what, "-w", "randread", "-o", "4096", "-q", str(depth)]
    command += ["-t", str(seconds), "-m", f"[{cpu}]", "--vq-count", "1", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
    report: dict[str, Any] = json.loads(done.stdout)
    return float(report["totals"]["iops"])


def measure_all(rounds: int, seconds: float, skip: list[str]) -> dict[tuple[str, int], list[float]]:
    """IOPS by (target, depth), one for each round."""
    cpus = sorted(os.sched_getaffinity(0))
    found: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        chosen = {name: how for name, how in targets(folder, cpus[-1]).items() if name not in skip}
        for command, what in chosen.values():
            if command:
                stack.enter_context(running(command, what.removeprefix("scsi:")))
        for number in range(rounds):
            for depth in DEPTHS:
                for name, (_, what) in chosen.items():
                    iops = measure(what, depth, seconds, cpus[0])
                    found.setdefault((name, depth), []).append(iops)
                    print(f"round {number + 1}: {name}, QD {depth}: {iops / 1000:.0f} kIOPS", file=sys.stderr)
    return found


def row(name: str, cells: list[str]) -> str:
    return f"{name:48}" + "".join(f"{cell:>22}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each run (default: %(default)g)")
    parser.add_argument("--no-qsd", action="store_true", help="leave qemu-storage-daemon out")
    parser.add_argument("--json", metavar="FILE", help="write all results to this file")
    args = parser.parse_args()
    found = measure_all(args.rounds, args.seconds, [QSD] if args.no_qsd else [])
    print(row("random 4 KiB reads, kIOPS: median (min-max)", [f"QD {d}" for d in DEPTHS]))
    for name in dict.fromkeys(name for name, _ in found):
        runs = [[iops / 1000 for iops in found[name, depth]] for depth in DEPTHS]
        print(row(name, [f"{statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})" for v in runs]))
    for one, other in RATIOS:
        if (other, DEPTHS[0]) in found:
            pairs = [zip(found[one, d], found[other, d], strict=True) for d in DEPTHS]
            print(row(f"{one} / {other}", [f"{statistics.median(a / b for a, b in p):.2f}" for p in pairs]))
    if args.json:
        figures = [{"target": n, "queue_depth": d, "iops": v} for (n, d), v in found.items()]
        Path(args.json).write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
