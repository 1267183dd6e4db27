"""The host's side of a guest's run: gives it jobs, answers what its tests ask, and hands on what they report."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from tests.guest.devices import Disk
from tests.guest.line import LineClosed, LineSilent
from tests.guest.machine import Machine, machine
from tests.guest.qmp import QmpError

BOOT_S = 300.0  # to the first word; a loaded machine may need many times what an idle one does
SILENCE_S = 400.0  # longer than a test's own time limit in the guest


class GuestDied(Exception):
    """The guest ended, or fell silent; the message has its last words."""


class Services:
    """What tests in the guest may ask of the host. Sizes and offsets are in bytes."""

    def __init__(self, guest: Machine) -> None:
        self._guest = guest

    def qmp(self, command: str, arguments: dict[str, Any]) -> Any:
        return self._guest.qmp.command(command, **arguments)

    def unplugged(self, device: str, seconds: float) -> None:
        """Until the guest has let go of the device."""
        self._guest.qmp.wait_event("DEVICE_DELETED", device, seconds)

    def plug(self, name: str, port: str, size: int, queues: int) -> None:
        """A new virtio-blk disk, the device's name being the disk's, into an empty root port."""
        disk = Disk(name, size)
        disk.create(self._guest.run_dir)
        self._guest.qmp.command("blockdev-add", **disk.blockdev(self._guest.run_dir))
        more = {"iommu_platform": True} if self._guest.variant == "iommu" else {}
        self._guest.qmp.command(
            "device_add",
            driver="virtio-blk-pci",
            id=name,
            bus=port,
            drive=f"n-{name}",
            serial=name,
            **{"disable-legacy": "on", "num-queues": queues},
            **more,
        )

    def forget(self, name: str) -> None:
        """Let go of the file of a disk that was plugged, and unplugged since."""
        self._guest.qmp.command("blockdev-del", **{"node-name": f"n-{name}"})

    def read(self, disk: str, offset: int, length: int) -> str:
        """A part of the disk's file, in base64."""
        with (self._guest.run_dir / f"{disk}.img").open("rb") as file:
            file.seek(offset)
            return base64.b64encode(file.read(length)).decode()

    def digest(self, disk: str, offset: int, length: int) -> str:
        """SHA-256 of a part of the disk's file."""
        with (self._guest.run_dir / f"{disk}.img").open("rb") as file:
            file.seek(offset)
            return hashlib.sha256(file.read(length)).hexdigest()

    def write(self, disk: str, offset: int, data: str) -> None:
        with (self._guest.run_dir / f"{disk}.img").open("r+b") as file:
            file.seek(offset)
            file.write(base64.b64decode(data))


class Session:
    """A guest that does jobs, from power-on to close(). hear() is what it tells.

    programs: of this host, to be in the guest too.
    """

    def __init__(self, variant: str, programs: tuple[str, ...] = ()) -> None:
        self._context: AbstractContextManager[Machine] = machine(variant, programs)
        self.guest = self._context.__enter__()
        self._services = Services(self.guest)
        self._wants_job = False

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def start(self, job: dict[str, Any]) -> None:
        """Give it the job as soon as it asks for one."""
        for _ in self.hear(BOOT_S, lambda: self._wants_job):
            pass
        self.guest.line.send({"result": job})
        self._wants_job = False

    def hear(self, seconds: float = SILENCE_S, until: Callable[[], bool] = lambda: False) -> Iterator[tuple[str, Any]]:
        """What the guest tells: kind and value. Its questions are answered on the way."""
        while not until():
            try:
                message = self.guest.line.receive(seconds)
            except (LineClosed, LineSilent, ConnectionError) as end:
                raise GuestDied(f"{type(end).__name__}: {end}\n{self.guest.last_words()}") from end
            if "tell" in message:
                yield message["tell"], message["value"]
            elif message["ask"] == "job":
                self._wants_job = True
            else:
                self.guest.line.send(self._answer(message["ask"], message["args"]))

    def _answer(self, question: str, args: dict[str, Any]) -> dict[str, Any]:
        if question.startswith("_") or not hasattr(self._services, question):
            return {"error": f"the host knows no {question}"}
        try:
            return {"result": getattr(self._services, question)(**args)}
        except (QmpError, OSError, LineClosed, LineSilent, TypeError) as failure:
            return {"error": f"{question}: {type(failure).__name__}: {failure}"}

    def do(self, words: list[str], seconds: float) -> dict[str, Any]:
        """Run a command in the guest: its exit code (None: it took too long), "out" and "err"."""
        self.start({"command": words, "seconds": seconds})
        for kind, value in self.hear(seconds + SILENCE_S):
            if kind == "end":
                return dict(value)
        raise AssertionError("unreachable: hear() ends by an exception only")
