#!/usr/bin/env python3
"""Random 4 KiB reads over vhost-user: one poller, one queue, each target on a core of its own.

    python benchmarks/vhost.py [--rounds 5] [--seconds 2] [--json FILE]

Targets: qemu-storage-daemon's null-co and the embedded null target, and no target at all (a null bdev: what the load
generator itself costs). Rounds are interleaved, so that a noisy moment hits all alike; figures are medians, in
thousands of I/O a second, with the smallest and largest. Two cores that nothing else uses give the truest figures.
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
QSD, EMBEDDED, NOTHING = "qemu-storage-daemon null-co", "embedded null target", "no target (null bdev)"


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
    qsd, own = f"{folder}/q.sock", f"{folder}/v.sock"
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
        EMBEDDED: ([sys.executable, "-m", "virtiod.cli", "target", own, "--null", str(SIZE), "-m", f"[{cpu}]"], own),
        NOTHING: ([], f"null:{SIZE}"),
    }


def measure(what: str, depth: int, seconds: float, cpu: int) -> float:
    """IOPS of one run."""
    command = [sys.executable, "-m", "virtiod.cli", "perf", what, "-w", "randread", "-o", "4096", "-q", str(depth)]
    command += ["-t", str(seconds), "-m", f"[{cpu}]", "--vq-count", "1", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
    report: dict[str, Any] = json.loads(done.stdout)
    return float(report["totals"]["iops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", metavar="FILE", help="leave all figures here")
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    found: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for round_number in range(args.rounds):
            for name, (command, what) in targets(folder, cpus[-1]).items():
                with running(command, what) if command else ExitStack():
                    for depth in DEPTHS:
                        iops = measure(what, depth, args.seconds, cpus[0])
                        found.setdefault((name, depth), []).append(iops)
                        print(f"round {round_number + 1}: {name}, depth {depth}: {iops / 1000:.0f} k", file=sys.stderr)
    print(f"{'random 4 KiB reads, kIOPS: median (min-max)':44}" + "".join(f"{f'depth {d}':>26}" for d in DEPTHS))
    for name in (QSD, EMBEDDED, NOTHING):
        cells = [
            f"{statistics.median(v) / 1000:.0f} ({min(v) / 1000:.0f}-{max(v) / 1000:.0f})"
            for v in (found[name, depth] for depth in DEPTHS)
        ]
        print(f"{name:44}" + "".join(f"{cell:>26}" for cell in cells))
    ratios = [statistics.median(found[EMBEDDED, d]) / statistics.median(found[QSD, d]) for d in DEPTHS]
    print(f"{'embedded / qemu-storage-daemon':44}" + "".join(f"{f'{ratio:.2f}':>26}" for ratio in ratios))
    if args.json:
        figures = [{"target": n, "queue_depth": d, "iops": v} for (n, d), v in found.items()]
        Path(args.json).write_text(json.dumps({"cpus": cpus, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
