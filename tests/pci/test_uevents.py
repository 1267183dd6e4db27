"""The kernel's events about devices are understood, and none that matters is missed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_pci_host import FakeHost
from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.pci import uevents
from virtiod.pci.uevents import Monitor, Uevent, Watch, parse

PATH = "/devices/pci0000:00/0000:00:05.0"


def event(action: str, address: str = "0000:00:05.0", subsystem: str = "pci", path: str = PATH) -> bytes:
    fields = [f"{action}@{path}", f"ACTION={action}", f"DEVPATH={path}", f"SUBSYSTEM={subsystem}"]
    return "".join(f"{field}\0" for field in [*fields, f"PCI_SLOT_NAME={address}", "SEQNUM=4711"]).encode()


class Kernel:
    """Sends events to the monitors that are made while it is in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ends: list[socket.socket] = []
        monkeypatch.setattr(uevents, "_open_socket", self._open)
        monkeypatch.setattr(uevents, "PERIOD_S", 0.05)

    def _open(self) -> socket.socket:
        end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._ends.append(end)
        return Received(other)  # type: ignore[return-value]

    def send(self, datagram: bytes, sender: int = 0) -> None:
        for end in self._ends:
            end.send(bytes([sender]) + datagram)

    def close(self) -> None:
        for end in self._ends:
            end.close()


class Received:
    """A socket whose datagrams begin with their sender."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self.fileno = inner.fileno
        self.close = inner.close

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        datagram = self.inner.recv(size)
        if datagram == b"\0overflow":
            raise OSError(105, "No buffer space available")
        return datagram[1:], (datagram[0], 0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.mark.parametrize(
    ("datagram", "meaning"),
    [
        (event("add"), Uevent("add", "0000:00:05.0")),
        (event("remove"), Uevent("remove", "0000:00:05.0")),
        (event("add", subsystem="virtio"), Uevent("add", "")),
        (b"change@/devices/x\0ACTION=change\0", Uevent("change", "")),
        (b"libudev\0\xfe\xed\xca\xfe", None),
        (b"", None),
        (b"@", None),
        (b"\xff@\0=\0==\0", None),
        (b"add@/x\0SUBSYSTEM=pci\0PCI_SLOT_NAME=\xff\0", Uevent("add", "\ufffd")),
    ],
)
def test_an_event_is_understood(datagram: bytes, meaning: Uevent | None) -> None:
    assert parse(datagram) == meaning


@in_loop
async def test_the_kernel_can_be_listened_to() -> None:
    seen: list[Uevent | None] = []
    monitor = Monitor(seen.append, 0.01)
    assert monitor._socket is not None
    await until(lambda: seen)
    monitor.close()
    monitor.close()
    assert seen[0] is None


@in_loop
async def test_only_what_the_kernel_says_of_pci_devices_counts(kernel: Kernel) -> None:
    seen: list[Uevent | None] = []
    monitor = Monitor(seen.append, 60)
    kernel.send(event("remove"), sender=99)
    kernel.send(event("add", subsystem="block"))
    kernel.send(b"rubbish")
    kernel.send(event("add"))
    await until(lambda: seen)
    assert seen == [Uevent("add", "0000:00:05.0")]
    monitor.close()
    kernel.close()


@in_loop
async def test_events_that_were_dropped_have_it_look(kernel: Kernel) -> None:
    seen: list[Uevent | None] = []
    monitor = Monitor(seen.append, 60)
    kernel.send(b"overflow")
    await until(lambda: seen)
    assert seen == [None]
    monitor.close()
    kernel.close()


@in_loop
async def test_a_removal_is_told_at_once_and_once(host: FakeHost, kernel: Kernel) -> None:
    host.add()
    host.add("0000:00:06.0")
    told: list[int] = []
    watch = Watch("00:05.0", lambda: told.append(1), host)
    kernel.send(event("remove", "0000:00:06.0"))
    kernel.send(event("unbind"))
    await asyncio.sleep(0)
    kernel.send(event("remove"))
    kernel.send(event("remove"))
    await until(lambda: told)
    await asyncio.sleep(0.1)  # as long as two looks take
    assert told == [1]
    watch.close()
    kernel.close()


def absent(host: FakeHost) -> None:
    pass


def replaced(host: FakeHost) -> None:
    path = host.path()
    path.rename(path.with_name("old"))
    path.mkdir()
    (host.sys / "bus/pci/devices" / path.name).symlink_to(path)


@pytest.mark.parametrize("then", [absent, replaced])
@in_loop
async def test_a_removal_without_an_event_is_found(
    host: FakeHost, kernel: Kernel, then: Callable[[FakeHost], None]
) -> None:
    host.add()
    told: list[int] = []
    watch = Watch("00:05.0", lambda: told.append(1), host)
    host.vanish("0000:00:05.0")
    then(host)
    await until(lambda: told)
    watch.close()
    kernel.close()


@in_loop
async def test_a_watch_that_was_closed_tells_nothing(host: FakeHost, kernel: Kernel, tmp_path: Path) -> None:
    host.add()
    told: list[int] = []
    watch = Watch("00:05.0", lambda: told.append(1), host)
    kernel.send(event("remove"))
    watch.close()
    await asyncio.sleep(0.1)
    assert told == []
    kernel.close()
