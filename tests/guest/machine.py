"""The virtual machine: its two variants, its devices, and its life.

plain: no IOMMU; there are huge pages. iommu: an Intel IOMMU that remaps interrupts too, and devices that honour it.

TCG, because /dev/kvm may be there and still not run this kernel. Every start and every wait has a deadline.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest import image
from tests.guest.devices import DEVICES, HOT_PORTS, root_port
from tests.guest.line import Line
from tests.guest.packages import Unavailable
from tests.guest.qmp import Qmp
from tests.support import peers

PROGRAM = "qemu-system-x86_64"
MEMORY_MIB = 1280
HUGE_PAGES = 192  # of 2 MiB
LISTEN_S = 60.0  # for QEMU to open its sockets
LIFE_S = 3600  # a guest that is still there is killed, even when nobody is left to do it
STOP_S = 5.0


def kernel_command_line(variant: str, job: str) -> str:
    words = ["console=ttyS0", "panic=-1", "loglevel=5", "mitigations=off", f"virtiod={job}"]
    words += ["hugepagesz=2M", f"hugepages={HUGE_PAGES}"]
    words += ["no_timer_check"]  # which counts ticks in a time that a busy machine does not give it, and panics
    if variant == "iommu":
        words += ["intel_iommu=on"]
    return " ".join(words)


class Machine:
    """A running guest: `line` is its serial line, `qmp` the monitor, `run_dir` holds the disks' files and the logs."""

    def __init__(self, run_dir: Path, variant: str, *, programs: tuple[str, ...] = (), shell: bool = False) -> None:
        self.run_dir = run_dir
        self.variant = variant
        self.console = run_dir / "console"
        made = image.build()
        made.with_tree(run_dir / "initrd", programs)
        if not shutil.which(PROGRAM):
            raise Unavailable(f"{PROGRAM} is missing: install Debian's package qemu-system-x86")
        job = "shell" if shell else variant
        start = ["-kernel", str(made.kernel), "-initrd", str(run_dir / "initrd")]
        start += ["-append", kernel_command_line(variant, job)]
        terminal = "stdio" if shell else f"file:{self.console}"
        command = ["timeout", f"--kill-after={STOP_S:g}", str(LIFE_S), PROGRAM, *self._hardware(), *start]
        if shell:
            command.insert(1, "--foreground")
        command += ["-serial", terminal, "-serial", f"unix:{run_dir}/line,server=on,wait=off"]
        command += ["-qmp", f"unix:{run_dir}/qmp,server=on,wait=off"]
        if shell:
            self.process = subprocess.Popen(command)
        else:
            self.process = peers.popen(command, run_dir / "qemu.log")

    def _hardware(self) -> list[str]:
        iommu = self.variant == "iommu"
        words = ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-smp", "2", "-m", str(MEMORY_MIB)]
        words += ["-machine", "q35,kernel-irqchip=split" if iommu else "q35", "-nodefaults", "-no-user-config"]
        words += ["-display", "none", "-no-reboot"]
        if iommu:  # before the devices behind it
            words += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        for device in DEVICES:
            if self.variant not in device.variants:
                continue
            for disk in device.disks:
                disk.create(self.run_dir)
                words += ["-blockdev", json.dumps(disk.blockdev(self.run_dir))]
            for arguments in device.arguments(self.variant):
                words += ["-device", arguments]
        for name, slot in HOT_PORTS.items():
            words += ["-device", root_port(name, slot)]
        return words

    def connect(self) -> None:
        """To its line and its monitor."""
        self.line = Line(self._reach(self.run_dir / "line"))
        self.qmp = Qmp(self._reach(self.run_dir / "qmp"))

    def _reach(self, path: Path) -> int:
        deadline = time.monotonic() + LISTEN_S
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(path))
                return sock.detach()
            except OSError:
                sock.close()
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{PROGRAM} did not start: {(self.run_dir / 'qemu.log').read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Power off, at once."""
        for end in (getattr(self, "line", None), getattr(self, "qmp", None)):
            if end:
                end.close()
        self.process.terminate()  # `timeout` hands it on
        self.process.wait(2 * STOP_S)

    def last_words(self, lines: int = 30) -> str:
        """The end of what the kernel and the tests printed, and what QEMU said."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        said = (self.run_dir / "qemu.log").read_text()
        return "\n".join([*text.splitlines()[-lines:], *([f"{PROGRAM}: {said}"] if said else [])])


@contextmanager
def machine(variant: str, programs: tuple[str, ...] = ()) -> Iterator[Machine]:
    """A guest from power-on to power-off, connected. Raises Unavailable when there can be none here."""
    run_dir = Path(tempfile.mkdtemp(prefix="vg-", dir="/tmp"))
    guest = None
    try:
        guest = Machine(run_dir, variant, programs=programs)
        guest.connect()
        yield guest
    finally:
        if guest:
            guest.stop()
        shutil.rmtree(run_dir)
