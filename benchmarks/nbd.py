#!/usr/bin/env python3
"""fio's nbd engine on NBD exports of a null device over Unix sockets: virtiod's, qemu-storage-daemon's and qemu-nbd's.

    python benchmarks/nbd.py [--rounds 5] [--seconds 1] [--apart] [--json FILE]

Rounds are interleaved, so that a noisy moment hits all alike; figures are medians, in kIOPS.
virtiod runs one poller, pinned to the first core. The others, and fio, run where the kernel puts them; with --apart
each server runs on the first core and fio on the rest.

fio makes six system calls for each I/O, which fill a core of its own at 150,000 to 200,000 IOPS whatever the
server: where "client uses" is near a core for each connection, or all cores that are left, fio is what is measured. The
last rows have a client that costs less, benchmarks/nbd_batches.py, and so show more of the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.system import System

SIZE = 1 << 30
START_S = 10.0
OWN = "virtiod"
BATCHES = "batches"  # of random reads, by nbd_batches.py
NULL = f"driver=null-co,size={SIZE},read-zeroes=off"
OTHERS = {
    "qemu-storage-daemon": [
        *("qemu-storage-daemon", "--blockdev", f"node-name=n,{NULL}"),
        *("--nbd-server", "addr.type=unix,addr.path=SOCKET,max-connections=16"),
        *("--export", "nbd,id=e,node-name=n,name=disk,writable=on"),
    ],
    "qemu-nbd": ["qemu-nbd", "--image-opts", NULL, "-k", "SOCKET", "-x", "disk", "-t", "-e", "16"],
}


class Case(NamedTuple):
    rw: str
    block: str
    depth: int
    connections: int

    def __str__(self) -> str:
        return f"{self.rw} {self.block} QD {self.depth} x {self.connections}"


CASES = [Case("randread", "4k", depth, connections) for connections in (1, 4) for depth in (1, 32, 128)]
CASES += [Case("read", "128k", depth, 1) for depth in (1, 16)]
CASES += [Case(BATCHES, "4k", depth, 1) for depth in (32, 128)]


class Run(NamedTuple):
    """IOPS, and the share of a core that fio and the server used."""

    iops: float
    fio: float
    server: float


@contextmanager
def running(command: list[str], socket: Path, apart: bool) -> Iterator[int]:
    """A server; its process id."""
    words = (["taskset", "-c", "0"] if apart else []) + [word.replace("SOCKET", str(socket)) for word in command]
    process = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + START_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen at {socket}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(START_S)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:76}\r", end="", file=sys.stderr, flush=True)


def measure(case: Case, socket: Path, pid: int, seconds: float, apart: bool) -> Run:
    command = ["taskset", "-c", f"1-{(os.cpu_count() or 2) - 1}"] if apart else []
    if case.rw == BATCHES:
        client = [sys.executable, str(Path(__file__).with_name("nbd_batches.py"))]
        command += [*client, str(socket), str(case.depth), str(seconds)]
        before, start = cpu_seconds(pid), time.monotonic()
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60).stdout)
        return Run(figures["iops"], figures["cpu"], (cpu_seconds(pid) - before) / (time.monotonic() - start))
    command += ["fio", "--name=x", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={socket}", f"--rw={case.rw}"]
    command += [f"--bs={case.block}", f"--iodepth={case.depth}", f"--numjobs={case.connections}", f"--size={SIZE}"]
    command += ["--time_based", f"--runtime={seconds * 1000:.0f}ms", "--ramp_time=0.3", "--group_reporting", "--thread"]
    before, start = cpu_seconds(pid), time.monotonic()
    done = subprocess.run([*command, "--output-format=json"], check=True, capture_output=True, timeout=seconds + 60)
    used = (cpu_seconds(pid) - before) / (time.monotonic() - start)
    report: dict[str, Any] = json.loads(done.stdout[done.stdout.index(b"{") :])
    (job,) = report["jobs"]
    return Run(job["read"]["iops"], (job["usr_cpu"] + job["sys_cpu"]) / 100, used)


async def compare(folder: Path, rounds: int, seconds: float, apart: bool) -> dict[Case, dict[str, list[Run]]]:
    """Every case on every server, rounds times."""
    engine = System([0])
    engine.start()
    channels = BdevChannels(engine.pollers)
    connect_null(channels)
    engine.bdevs.register(Bdev("Null0", BdevInfo(512, SIZE // 512), channels))
    manager = engine.exports.of(NbdExports)
    sockets = {name: folder / f"{name}.sock" for name in (OWN, *OTHERS)}
    await manager.listen(ListenAddress.parse(f"unix:{sockets[OWN]}"))
    await manager.create("Null0", "disk")
    found: dict[Case, dict[str, list[Run]]] = {case: {name: [] for name in sockets} for case in CASES}
    for turn in range(rounds):
        for case in CASES:
            for name, socket in sockets.items():
                say(f"round {turn + 1} of {rounds}: {case}, {name}")
                args = (case, socket, PIDS.get(name, os.getpid()), seconds, apart)
                found[case][name].append(await asyncio.to_thread(measure, *args))
    say("")
    await manager.stop()
    await engine.stop()
    return found


PIDS: dict[str, int] = {}


def table(found: dict[Case, dict[str, list[Run]]]) -> list[dict[str, Any]]:
    """Medians by case; prints them."""
    rows = []
    heads = ["virtiod", "q-s-daemon", "qemu-nbd", "to q-s-d", "to qemu-nbd", "client uses"]
    print(f"{'kIOPS, ratios, cores':28}" + "".join(f"{head:>12}" for head in heads))
    for case, runs in found.items():
        iops = {name: statistics.median(run.iops for run in runs[name]) for name in runs}
        fio = statistics.median(run.fio for run in runs[OWN]) * case.connections
        ratios = {name: iops[OWN] / iops[name] for name in OTHERS}
        row = f"{case!s:28}" + "".join(f"{value / 1000:12.1f}" for value in iops.values())
        print(row + "".join(f"{ratio:11.2f}x" for ratio in ratios.values()) + f"{fio:12.2f}")
        every = {name: [run._asdict() for run in runs[name]] for name in runs}
        rows.append({"case": str(case), **case._asdict(), "iops": iops, "ratios": ratios, "runs": every})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compares NBD exports of a null device: virtiod's, qemu-storage-daemon's and qemu-nbd's."
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each run (default: %(default)g)")
    parser.add_argument("--apart", action="store_true", help="run each server on the first core and fio on the rest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end as well
    with tempfile.TemporaryDirectory(prefix="vb-", dir="/tmp") as name:
        folder = Path(name)
        servers = [running(command, folder / f"{key}.sock", options.apart) for key, command in OTHERS.items()]
        with servers[0] as first, servers[1] as second:
            PIDS.update(zip(OTHERS, (first, second), strict=True))
            found = asyncio.run(compare(folder, options.rounds, options.seconds, options.apart))
    rows = table(found)
    if options.json:
        about = {"rounds": options.rounds, "seconds": options.seconds, "apart": options.apart, "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({**about, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
