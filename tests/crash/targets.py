"""The targets: real processes over an image, which survives them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.plan import DISK_BLOCKS, Setup
from tests.crash.processes import Nursery, Process
from tests.crash.stamp import BLOCK
from tests.support.peers import is_listening, requires

SIZE = DISK_BLOCKS * BLOCK
CLUSTER = 4096  # bytes of qcow2's: small, so that there is more to allocate
POLL_S = 0.001
SS_CONNECTED = "03"  # in /proc/net/unix


class TargetFailed(Exception):
    """It ended by itself, or did not start, or its image is broken. The message holds what it said."""


class Target(ABC):
    """A process that serves `image` at `socket`. One lives at a time."""

    kind: str
    needs: Sequence[str] = ()  # programs
    grain = 0  # of Turns
    zeros_first = False  # see Oracle

    def __init__(self, run_dir: Path, setup: Setup, options: Sequence[str], nursery: Nursery) -> None:
        requires(*self.needs)
        self._nursery = nursery
        self.socket = run_dir / "target"
        self.log = run_dir / "target.log"
        self.setup = setup
        self.options = options
        self._directory = Path(tempfile.mkdtemp(prefix="v-", dir=self.directory()))
        self.image = self._directory / "image"
        self._create_image()
        self._process: Process | None = None
        self._killed = False

    @staticmethod
    def directory() -> Path:
        """Where images are: in memory, as SIGKILL takes nothing from a page cache."""
        memory = Path("/dev/shm")
        return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())

    def _create_image(self) -> None:
        self.image.touch()
        os.truncate(self.image, SIZE)

    @abstractmethod
    def _start(self) -> Process: ...

    def contents(self) -> bytes:
        """What the image holds, while nobody uses it. Raises TargetFailed."""
        return self.image.read_bytes()

    def start(self) -> None:
        """It listens in a moment. The one before is gone."""
        self._killed = False
        self._process = self._start()

    async def listening(self) -> None:
        """Returns when it can be connected to. Raises TargetFailed."""
        await self._until(lambda: is_listening(self.socket))

    async def connected(self) -> None:
        """Returns when somebody is. Raises TargetFailed."""
        await self._until(self._is_connected)

    def _is_connected(self) -> bool:
        lines = Path("/proc/net/unix").read_text().splitlines()
        return any(line.endswith(f" {self.socket}") and line.split()[5] == SS_CONNECTED for line in lines)

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self.check()
            await asyncio.sleep(POLL_S)

    def check(self) -> None:
        """Raises TargetFailed if it has ended by itself."""
        assert self._process is not None
        if self._process.ended and not self._killed:
            raise TargetFailed(f"the target ended by itself:\n{self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL, unless it has ended before."""
        assert self._process is not None
        self._killed = not self._process.ended
        self._process.kill()

    async def gone(self) -> None:
        """Returns when the killed process has exited: nothing of it is under way any more. Raises TargetFailed."""
        assert self._process is not None
        await self._process.gone()
        self.check()
        self._process.close()

    def close(self) -> None:
        """Ends it, and removes the image."""
        if self._process is not None:
            self._process.close()
        shutil.rmtree(self._directory)


class Qemu(Target):
    """qemu-storage-daemon."""

    needs: Sequence[str] = ("qemu-storage-daemon",)
    driver = "file,filename={image}"
    export = "type=vhost-user-blk,id=e,node-name=d,addr.type=unix,writable=on"

    def _start(self) -> Process:
        setup = self.setup
        discard = "unmap" if setup.discard else "ignore"
        driver = self.driver.format(image=self.image)
        queues = f"num-queues={setup.queues},logical-block-size={setup.block_size}"
        words = [
            f"--blockdev=node-name=d,discard={discard},driver={driver}",
            f"--export={self.export},addr.path={self.socket},{queues}",
        ]
        return self._nursery.program(["qemu-storage-daemon", *words, *self.options], self.log)


class Raw(Qemu):
    """Over a file, on a disk where there is one: a flush takes time there."""

    kind = "raw"

    @staticmethod
    def directory() -> Path:
        return Path("/var/tmp")


class Direct(Raw):
    """Over a file past the page cache."""

    kind = "direct"
    driver = "file,filename={image},cache.direct=on"

    @staticmethod
    def possible() -> bool:
        """Whether the file system has direct I/O."""
        with tempfile.NamedTemporaryFile(dir=Direct.directory()) as file:
            try:
                os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
            except OSError:
                return False
        return True


class Qcow2(Qemu):
    """Over an image whose metadata are cached in the process: what was allocated since the last flush dies with it."""

    kind = "qcow2"
    needs = ("qemu-storage-daemon", "qemu-img")
    grain = CLUSTER // BLOCK
    zeros_first = True  # where it has a cluster of which it knows that it is to read as zeros
    driver = "qcow2,file.driver=file,file.filename={image},file.discard=unmap"

    def _create_image(self) -> None:
        options = ("-o", f"cluster_size={CLUSTER}")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, self.image, str(SIZE)], check=True)

    def contents(self) -> bytes:
        raw = self._directory / "raw"
        command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self.image), str(raw)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TargetFailed(f"the image can't be read: {done.stderr}")
        return raw.read_bytes()


class Embedded(Target):
    """`virtiod target`, with a cache that dies with it."""

    kind = "embedded"

    def _start(self) -> Process:
        words = ["target", str(self.socket), "--file", str(self.image), "--cache", "--poll-us", "50"]
        words += ["--queues", str(self.setup.queues), "--block-size", str(self.setup.block_size)]
        return self._nursery.virtiod([*words, *self.options], self.log)


TARGETS: dict[str, type[Target]] = {kind.kind: kind for kind in (Qcow2, Raw, Direct, Embedded)}
