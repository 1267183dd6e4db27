#!/usr/bin/env python3
"""Measures random 4 KiB reads of a virtio-blk PCI device in a guest: by virtiod, and by the kernel's driver.

    python benchmarks/guest.py [--rounds 5] [--seconds 3] [--variant plain|iommu] [--depths 1,32] [--json FILE]

Both run on one processor of the same guest, one after the other in each round: fio with io_uring on /dev/vdX, and
`virtiod perf` on the same device. QEMU interprets the guest's instructions (TCG), which makes each of them many times
slower than on a real machine. So the IOPS themselves say nothing; only their ratio does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.guest.devices import DEVICES, VARIANTS
from tests.guest.host import Session
from tests.guest.packages import Unavailable

DEVICE = "busy"
KERNEL, VIRTIOD = "kernel, fio with io_uring", "virtiod perf"
MORE_S = 120.0  # to start and to end, in a slow guest


def address() -> str:
    (found,) = [device for device in DEVICES if device.name == DEVICE]
    return f"0000:00:{found.slot:02x}.{found.function}"


def run(session: Session, seconds: float, *words: str) -> str:
    done = session.do(list(words), seconds + MORE_S)
    if done["code"] != 0:
        raise SystemExit(f"{' '.join(words)}: exit code {done['code']}\n{done['out']}\n{done['err']}")
    return str(done["out"])


def kernel_node(session: Session) -> str:
    script = f"ls /sys/bus/pci/devices/{address()}/virtio*/block"
    return f"/dev/{run(session, 5, 'sh', '-c', script).split()[0]}"


def by_kernel(session: Session, depth: int, seconds: float) -> float:
    """IOPS of fio, with what io_uring has to be fast."""
    words = [
        "taskset",
        "1",
        "fio",
        "--name=b",
        f"--filename={kernel_node(session)}",
        "--ioengine=io_uring",
        "--direct=1",
    ]
    words += ["--rw=randread", "--bs=4k", f"--iodepth={depth}", "--fixedbufs", "--registerfiles", "--thread"]
    words += ["--time_based", f"--runtime={int(seconds * 1000)}ms", "--output-format=json"]
    (job,) = json.loads(run(session, seconds, *words))["jobs"]
    return float(job["read"]["iops"])


def by_virtiod(session: Session, depth: int, seconds: float) -> float:
    words = ["/guest/python", "-m", "virtiod.cli", "perf", address(), "--allow-unbind", "-w", "randread", "-o", "4096"]
    words += ["-q", str(depth), "-t", str(seconds), "-m", "[0]", "-s", "32", "--poll-mode", "busy", "--json"]
    report: dict[str, Any] = json.loads(run(session, seconds, *words))
    return float(report["totals"]["iops"])


WAYS = {KERNEL: by_kernel, VIRTIOD: by_virtiod}


def measure(variant: str, rounds: int, seconds: float, depths: list[int]) -> dict[tuple[str, int], list[float]]:
    """IOPS by way and depth, one figure for each round."""
    found: dict[tuple[str, int], list[float]] = {}
    session = Session(variant, programs=("fio",))
    try:
        for number in range(rounds):
            for depth in depths:
                for way, iops_of in WAYS.items():
                    iops = iops_of(session, depth, seconds)
                    found.setdefault((way, depth), []).append(iops)
                    print(f"{variant}, round {number + 1}: {way}, QD {depth}: {iops:.0f} IOPS", file=sys.stderr)
    finally:
        session.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each run (default: %(default)g)")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="guest to use (default: both)")
    parser.add_argument("--depths", default="1,32", metavar="N,...", help="queue depths (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all results to this file")
    args = parser.parse_args()
    depths = [int(depth) for depth in args.depths.split(",")]
    figures = []
    for variant in args.variant or VARIANTS:
        try:
            found = measure(variant, args.rounds, args.seconds, depths)
        except Unavailable as reason:
            raise SystemExit(f"the guest cannot be started: {reason}") from None
        figures += [{"variant": variant, "way": w, "queue_depth": d, "iops": v} for (w, d), v in found.items()]
        title = f"{variant}: random 4 KiB reads, IOPS: median (min-max)"
        print(f"{title:56}" + "".join(f"{f'QD {d}':>26}" for d in depths))
        for way in WAYS:
            cells = [f"{statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})" for v in (found[way, d] for d in depths)]
            print(f"{way:56}" + "".join(f"{cell:>26}" for cell in cells))
        # Of each round by itself: what slowed the machine down slowed both down.
        ratios = [[v / k for v, k in zip(found[VIRTIOD, d], found[KERNEL, d], strict=True)] for d in depths]
        cells = [f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios]
        print(f"{'virtiod / kernel':56}" + "".join(f"{cell:>26}" for cell in cells))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
