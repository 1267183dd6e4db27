"""Real programs as peers: storage daemons, NBD servers and clients, each with a deadline.

with storage_daemon(run_dir, "driver=file,filename=disk.img", queues=2) as target:
    attach(target.socket)
print(run("nbdinfo", "--json", uri))
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE_S, wait_until

STOP_S = PATIENCE_S / 2  # to end after SIGTERM, before SIGKILL

DEBIAN_PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "fio": "fio",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "debootstrap": "debootstrap",
    "dh": "debhelper",
    "dpkg-buildpackage": "build-essential",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "systemd-analyze": "systemd",
    "man": "man-db",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "nbdsh": "python3-libnbd",
    "openssl": "openssl",
    "prometheus": "prometheus",
    **dict.fromkeys(("sg_decode_sense", "sg_inq", "sg_luns", "sg_vpd"), "sg3-utils"),
    "sdparm": "sdparm",
    "spin": "spin",
    "promtool": "prometheus",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "zsh": "zsh",
}


def requires(*programs: str) -> None:
    """End the test unless all programs are there: as skipped, or under CI=true (./test sets it) as failed if
    Debian offers them."""
    for program in programs:
        if shutil.which(program):
            continue
        package = DEBIAN_PACKAGES.get(program)
        if package and os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing: install Debian's package {package}")
        pytest.skip(f"{program} is missing" + (f" (Debian's package {package})" if package else ""))


def is_listening(path: Path) -> bool:
    """Whether a Unix socket accepts connections, without making one: some servers take one client."""
    accepts = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    found = [fields for line in lines if len(fields := line.split(maxsplit=7)) == 8 and fields[7] == str(path)]
    return any(int(fields[3], 16) & accepts for fields in found)  # the connections that it accepted have its path, too


def run(*command: str | Path, seconds: float = PATIENCE_S, input: str | None = None) -> str:
    """What a command prints on stdout; the test fails, with its output, unless it exits with 0 in time."""
    requires(str(command[0]))
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False, input=input)
    except subprocess.TimeoutExpired as late:
        out, err = output_of(late)
        pytest.fail(f"{' '.join(words)}: still running after {seconds} s\n{out}\n{err}")
    if done.returncode:
        pytest.fail(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def output_of(late: subprocess.TimeoutExpired) -> tuple[str, str]:
    """What a command said before its deadline. (Python gives bytes here, also where text was asked for.)"""
    out, err = (
        said.decode(errors="replace") if isinstance(said, bytes) else said for said in (late.stdout, late.stderr)
    )
    return out or "", err or ""


def reap(group: int) -> None:
    """Wait for what is left of a session's process group, which this process inherited when its leader ended."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def popen(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process whose output goes to the log."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


start: Callable[[list[str], Path], Any] = popen  # replaced where processes start slowly


class Peer:
    """A process that runs beside the test, its output in a file. `socket` is what it listens on."""

    def __init__(self, command: list[str | Path], log: Path, socket: Path) -> None:
        self.command = [str(word) for word in command]
        self.log = log
        self.socket = socket
        requires(self.command[0])
        self.process = start(self.command, log)

    def wait_listening(self) -> None:
        """Wait until it listens; the test fails with its output if it ends instead."""
        wait_until(lambda: self.process.poll() is not None or is_listening(self.socket), f"{self} to listen")
        if self.process.poll() is not None:
            pytest.fail(f"{self}: exit code {self.process.returncode}\n{self.log.read_text()}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that did not help in time; waits for its end. May be called again."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would look to its clients."""
        self.process.kill()
        self.process.wait(STOP_S)

    def pause(self) -> None:
        """SIGSTOP: a peer that is there and silent."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __str__(self) -> str:
        return " ".join(self.command)


@contextmanager
def peer(run_dir: Path, command: list[str | Path], socket: Path) -> Iterator[Peer]:
    """A server process from listening to its end. The socket's name also names its log."""
    process = Peer(command, run_dir / f"{socket.name}.log", socket)
    try:
        process.wait_listening()
        yield process
    finally:
        process.stop()
        socket.unlink(missing_ok=True)


@contextmanager
def storage_daemon(
    run_dir: Path, blockdev: str, *, queues: int = 1, options: str = "", name: str = "qsd"
) -> Iterator[Peer]:
    """qemu-storage-daemon with one vhost-user-blk export, on run_dir/NAME.sock.

    blockdev: what follows --blockdev, without node-name and with sizes in bytes:
    "driver=null-co,size=1073741824,read-zeroes=on".
    options: more export options, such as "logical-block-size=4096".
    """
    socket = run_dir / f"{name}.sock"
    export = (
        f"type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={socket},writable=on,num-queues={queues}"
    )
    command: list[str | Path] = [
        "qemu-storage-daemon",
        *("--blockdev", f"node-name=disk,{blockdev}"),
        *("--export", f"{export},{options}" if options else export),
    ]
    with peer(run_dir, command, socket) as process:
        yield process


@contextmanager
def qemu_nbd(run_dir: Path, image: Path, *, options: tuple[str, ...] = (), name: str = "nbd") -> Iterator[Peer]:
    """qemu-nbd serving a raw image to any number of clients, on run_dir/NAME.sock."""
    socket = run_dir / f"{name}.sock"
    command: list[str | Path] = ["qemu-nbd", "-f", "raw", "-t", "-e", "0", "-k", socket, *options, image]
    with peer(run_dir, command, socket) as process:
        yield process


def nbd_uri(socket: Path, export: str = "") -> str:
    """The URI of an NBD export on a Unix socket."""
    return f"nbd+unix:///{export}?socket={socket}"
