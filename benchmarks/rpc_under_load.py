#!/usr/bin/env python3
"""Measures how long `bdev_get_iostat` takes while every poller is fully loaded.

    python benchmarks/rpc_under_load.py [--pollers 2] [--calls 1000] [--bdevs 1] [--target] [--json FILE]

Each poller has a core of its own, and the daemon's event loop and this client have to share those. The load is 4 KiB
random reads at queue depth 32 of null bdevs, or with --target of the embedded target's null disks, which needs cores
too. Figures are in milliseconds, from sending a request to having its answer, one request at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

START_S = 20.0
MAX_LOAD_S = 600


class Client:
    """JSON-RPC on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.lines = self.sock.makefile()

    def send(self, method: str, **params: Any) -> None:
        self.sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    def call(self, method: str, **params: Any) -> Any:
        self.send(method, **params)
        answer = json.loads(self.lines.readline())
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']['message']}")
        return answer["result"]


def start(stack: ExitStack, command: list[str], ready: Path) -> None:
    """Run a sub-command of virtiod until the stack ends; returns when its socket is there."""
    process = subprocess.Popen([sys.executable, "-m", "virtiod.cli", *command], stdout=subprocess.DEVNULL)
    stack.callback(process.wait, START_S)
    stack.callback(process.send_signal, signal.SIGTERM)
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(command)}: did not start")
        time.sleep(0.02)


def measure(pollers: int, calls: int, bdevs: int, with_target: bool) -> dict[str, float]:
    """Quantiles (ms) of the calls, and the load's IOPS meanwhile."""
    cpus = sorted(os.sched_getaffinity(0))[:pollers]
    if len(cpus) < pollers:
        raise SystemExit(f"--pollers {pollers} needs {pollers} cores, but there are {len(cpus)}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v-", dir="/tmp")))
        rpc = folder / "rpc"
        disks = [folder / f"t{number}" for number in range(bdevs)]
        if with_target:
            start(stack, ["target", *map(str, disks), "--null", "1G", "--queues", str(pollers)], disks[-1])
        mask = f"[{','.join(map(str, cpus))}]"
        start(stack, ["run", "-r", str(rpc), "-m", mask, "--http", "none", "--log-level", "ERROR"], rpc)
        control, load = Client(rpc), Client(rpc)
        control.call("framework_wait_init")
        names = [f"B{number}" for number in range(bdevs)]
        for name, disk in zip(names, disks, strict=True):
            if with_target:
                params = {"name": name, "trtype": "user", "traddr": str(disk), "dev_type": "blk"}
                control.call("bdev_virtio_attach_controller", **params)
            else:
                control.call("bdev_null_create", name=name, num_blocks=1 << 21, block_size=512)
        load.send("perform_tests", bdevs=names, rw="randread", queue_depth=32, time_s=MAX_LOAD_S)
        while not reads(control):
            time.sleep(0.01)
        before, started = reads(control), time.monotonic()
        times = sorted(timed(control) for _ in range(calls))
        iops = (reads(control) - before) / (time.monotonic() - started)
        load.sock.close()
        load.lines.close()
    return {
        "p50_ms": times[calls // 2],
        "p99_ms": times[min(calls - 1, calls * 99 // 100)],
        "max_ms": times[-1],
        "iops": iops,
    }


def reads(client: Client) -> int:
    return sum(bdev["num_read_ops"] for bdev in client.call("bdev_get_iostat")["bdevs"])


def timed(client: Client) -> float:
    started = time.perf_counter()
    client.call("bdev_get_iostat")
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pollers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=1000, help="calls to measure (default: %(default)s)")
    parser.add_argument("--bdevs", type=int, default=1, help="bdevs under load (default: %(default)s)")
    parser.add_argument("--target", action="store_true", help="load the embedded target's disks, not null bdevs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    args = parser.parse_args()
    figures = measure(args.pollers, args.calls, args.bdevs, args.target)
    print(
        f"bdev_get_iostat (calls: {args.calls}, pollers: {args.pollers}) at {figures['iops'] / 1e6:.2f} M IOPS: "
        f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms, max {figures['max_ms']:.2f} ms"
    )
    if args.json:
        args.json.write_text(json.dumps({**vars(args), **figures}, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
