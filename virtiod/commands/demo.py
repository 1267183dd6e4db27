"""Show what virtiod does, in half a minute: a target, the daemon, a verified load, an NBD export."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests

from rpc_client.client import Client
from virtiod import __version__
from virtiod.core.errors import DeadlineError, VirtiodError

__all__ = ["add_arguments", "run"]

START_S = 15.0
END_S = 20.0
DISK_MIB = 256
COPY_MIB = 64
BDEV = "VirtioBlk0"
SCSI_LUNS = "0:0=64M,2:300=64M"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="seconds that each load runs (default: %(default)g)"
    )
    parser.add_argument(
        "--report",
        default="virtiod-demo.json",
        metavar="FILE",
        help="file to write the report to (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demo; returns 0 if all that was written was read back the same."""
    report: dict[str, Any] = {
        "virtiod": __version__,
        "machine": {"cpus": sorted(os.sched_getaffinity(0)), "kernel": platform.release(), "cpu": _cpu_model()},
        "steps": {},
    }
    started = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="virtiod-")))
        _Demo(stack, folder, report, args.seconds).run()
    report["seconds"] = round(time.monotonic() - started, 1)
    report["ok"] = all(step.get("ok", True) for step in report["steps"].values())
    Path(args.report).write_text(json.dumps(report, indent=2) + "\n")
    print(_picture(report))
    print(f"{'All steps succeeded' if report['ok'] else 'A step FAILED'}; the report is in {args.report}")
    return 0 if report["ok"] else 1


class _Demo:
    def __init__(self, stack: ExitStack, folder: Path, report: dict[str, Any], seconds: float) -> None:
        self.stack = stack
        self.folder = folder
        self.report = report
        self.seconds = seconds
        cpus = sorted(os.sched_getaffinity(0))
        self.daemon_cpu, self.target_cpu = cpus[0], cpus[-1]
        self.target_socket = str(folder / "disk.sock")
        self.scsi_socket = str(folder / "scsi.sock")
        self.rpc_socket = str(folder / "rpc.sock")
        self.nbd_socket = str(folder / "rpc-nbd.sock")
        self.port = _free_port()

    def run(self) -> None:
        """Runs all steps, in order; the exception of a step that fails ends the demo."""
        with self.step("target", f"a virtio-blk disk of {DISK_MIB} MiB in memory, behind a vhost-user socket") as s:
            self.start("target", self.target_socket, "--memory", f"{DISK_MIB}M", "-m", f"[{self.target_cpu}]")
            _wait_for(self.target_socket)
            s["core"] = self.target_cpu
        with self.step("scsi target", f"a SCSI host with the disks {SCSI_LUNS}"):
            self.start("target", self.scsi_socket, "--scsi", SCSI_LUNS, "-m", f"[{self.target_cpu}]")
            _wait_for(self.scsi_socket)
        with self.step("daemon", f"virtiod, with one poller on core {self.daemon_cpu}") as s:
            http = f"127.0.0.1:{self.port}"
            self.start(
                "run", "-r", self.rpc_socket, "-m", f"[{self.daemon_cpu}]", "--http", http, "--log-level", "WARNING"
            )
            _wait_for(self.rpc_socket)
            s["core"] = self.daemon_cpu
        client = self.stack.enter_context(Client(self.rpc_socket))
        with self.step("attach", "bdev_virtio_attach_controller") as s:
            params = {"name": BDEV, "trtype": "user", "traddr": self.target_socket, "dev_type": "blk"}
            s["bdevs"] = client.call("bdev_virtio_attach_controller", params)
            s["controller"] = client.call("virtiod_get_controllers", {})[0]
        self.load(client, "verify", "write, read back, compare", rw="verify", queue_depth=32)
        self.load(client, "randread 32", "random reads, queue depth 32", rw="randread", queue_depth=32)
        self.load(client, "randread 1", "random reads, queue depth 1", rw="randread", queue_depth=1)
        with self.step("scsi attach", "bdev_virtio_attach_controller for the SCSI host") as s:
            params = {"name": "VirtioScsi0", "trtype": "user", "traddr": self.scsi_socket, "dev_type": "scsi"}
            disks = s["bdevs"] = client.call("bdev_virtio_attach_controller", params)
            print(f"    {' '.join(disks)}")
        self.load(client, "scsi verify", "write, read back, compare, on both disks", disks, rw="verify", queue_depth=32)
        with self.step("export", "nbd_create_export") as s:
            s["export"] = client.call("nbd_create_export", {"bdev_name": BDEV})
        self.copy()
        with self.step("metrics", f"http://127.0.0.1:{self.port}/metrics") as s:
            lines = requests.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text.splitlines()
            wanted = ("virtiod_bdev_reads_completed_total{", "virtiod_queue_depth{", "virtiod_controller_up{")
            s["samples"] = [line for line in lines if line.startswith(wanted)]
            s["ok"] = len(s["samples"]) >= len(wanted)
            for line in s["samples"]:
                print(f"    {line}")

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[dict[str, Any]]:
        """Prints what is done and how long it took; the block adds its results to the report."""
        print(f"{name:12} {what}", flush=True)
        found: dict[str, Any] = {}
        started = time.monotonic()
        yield found
        self.report["steps"][name] = {"seconds": round(time.monotonic() - started, 3), **found}

    def start(self, command: str, *arguments: str) -> None:
        """Runs a sub-command of virtiod until the demo ends."""
        words = [sys.executable, "-m", "virtiod.cli", command, *arguments]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
        self.stack.callback(_end, command, process)

    def load(self, client: Client, name: str, what: str, bdevs: Sequence[str] = (BDEV,), **workload: Any) -> None:
        with self.step(name, f"{what}, {self.seconds:g} s") as s:
            params = {"bdevs": list(bdevs), "block_size": 4096, "time_s": self.seconds, **workload}
            totals = client.call("perform_tests", params)["totals"]
            s["totals"] = totals
            s["ok"] = totals["ios"] > 0 and not totals["io_failed"] and not totals["io_mismatched"]
            print(
                f"    {totals['iops'] / 1000:.0f} kIOPS, {totals['mibps']:.0f} MiB/s, "
                f"median {totals['p50_latency_us']:.1f} us, p99 {totals['p99_latency_us']:.1f} us, "
                f"{totals['io_failed']} errors, {totals['io_mismatched']} mismatched"
            )

    def copy(self) -> None:
        """Writes a file to the disk with nbdcopy, and reads it back."""
        uri = f"nbd+unix:///{BDEV}?socket={self.nbd_socket}"
        if not shutil.which("nbdcopy"):
            print("nbdcopy      skipped: it is not installed (Debian package libnbd-bin)")
            return
        with self.step("nbdcopy", f"{COPY_MIB} MiB to the disk and back, through {uri}") as s:
            there, back = self.folder / "there", self.folder / "back"
            there.write_bytes(os.urandom(COPY_MIB << 20))
            nothing = bytes((DISK_MIB - COPY_MIB) << 20)
            with there.open("ab") as file:
                file.write(nothing)
            for source, sink in ((str(there), uri), (uri, str(back))):
                subprocess.run(["nbdcopy", "--flush", source, sink], check=True, timeout=60)
            s["sha256"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (there, back)]
            s["ok"] = s["sha256"][0] == s["sha256"][1]
            print(f"    sha256 {s['sha256'][0][:16]}... written, {s['sha256'][1][:16]}... read")


def _wait_for(path: str) -> None:
    """Waits until a process listens at the socket."""
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        if time.monotonic() > deadline:
            raise DeadlineError(f"{path}: no process listens after {START_S:g} s")
        time.sleep(0.05)


def _end(name: str, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DeadlineError(f"virtiod {name} did not end within {END_S:g} s") from None
    if code:
        raise VirtiodError(f"virtiod {name} ended with status {code}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _picture(report: dict[str, Any]) -> str:
    steps = report["steps"]
    rings = steps["attach"]["controller"]["virtio"]
    target = _box("virtiod target", f"{DISK_MIB} MiB memory", f"core {steps['target']['core']}")
    daemon = _box("virtiod", BDEV, f"poller on core {steps['daemon']['core']}")
    client = _box("nbdcopy,", "qemu-io, fio, any", "other NBD client")
    front = [
        "",
        "   vhost-user    ",
        " <=============> ",
        f"{rings['vq_count']} ring of {rings['vq_size']}".center(17),
        "",
    ]
    back = ["", "      NBD      ", " <===========> ", "  unix socket  ", ""]
    rows = zip(target, front, daemon, back, client, strict=True)
    lines = ["  " + "".join((a, b.ljust(17), c, d.ljust(15), e)) for a, b, c, d, e in rows]
    for name, totals in ((name, s["totals"]) for name, s in steps.items() if "totals" in s):
        lines.append(
            f"  {name:12} {totals['iops'] / 1e6:6.2f} million IOPS   "
            f"median {totals['p50_latency_us']:7.1f} us   {totals['io_mismatched']} of {totals['ios']} I/Os mismatched"
        )
    return "\n".join(["", *lines, ""])


def _box(*texts: str) -> list[str]:
    """Three lines of text in a box, five lines in all."""
    edge = "+" + "-" * 19 + "+"
    return [edge, *(f"| {text:17} |" for text in texts), edge]
