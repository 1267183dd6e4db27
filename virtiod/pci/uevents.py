"""The kernel's uevents of devices that are added and removed, and a regular check for missed ones.

The kernel sends them to everybody who listens (netlink(7), NETLINK_KOBJECT_UEVENT), but not into every container, and
drops them when a listener is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from virtiod.pci.devices import parse_address
from virtiod.pci.host import Host

log = logging.getLogger(__name__)

NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1  # 2 is udev's, which only passes on what the kernel said
KERNEL_PORT = 0  # anybody may send; only the kernel has this address
MAX_EVENT = 8192  # UEVENT_BUFFER_SIZE of the kernel is 2048
RECEIVE_BUFFER = 1 << 20
MAX_BURST = 64  # events in one round of the event loop
PERIOD_S = 1.0


class Uevent(NamedTuple):
    """address: of the PCI device that it is about, "" if about something else."""

    action: str
    address: str


def parse(datagram: bytes) -> Uevent | None:
    """Parses what the kernel sent: "action@path", then "NAME=value"s, a NUL after each. None if it is anything else."""
    header, *fields = datagram.split(b"\0")
    action, separator, _ = header.partition(b"@")
    if not separator or not action.isalpha():
        return None
    values = dict(field.partition(b"=")[::2] for field in fields)
    address = values.get(b"PCI_SLOT_NAME", b"") if values.get(b"SUBSYSTEM") == b"pci" else b""
    return Uevent(action.decode("ascii", "replace"), address.decode("ascii", "replace"))


class Monitor:
    """Calls on_event for each event about a PCI device, and with None each `period_s`, to check for missed ones.

    It works from its creation to close(), on the event loop.
    """

    def __init__(self, on_event: Callable[[Uevent | None], None], period_s: float) -> None:
        self._on_event = on_event
        self._period_s = period_s
        self._loop = asyncio.get_running_loop()
        self._socket = _open_socket()
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)
        self._timer = self._loop.call_later(period_s, self._look)

    def _read(self) -> None:
        assert self._socket is not None
        for _ in range(MAX_BURST):
            try:
                datagram, sender = self._socket.recvfrom(MAX_EVENT)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: some were dropped
                log.info("uevents: %s", error.strerror)
                self._on_event(None)
                return
            event = parse(datagram) if sender[0] == KERNEL_PORT else None
            if event is not None and event.address:
                self._on_event(event)
            if self._socket is None:
                return  # the callback closed it

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._period_s, self._look)
        self._on_event(None)

    def close(self) -> None:
        """Idempotent."""
        self._timer.cancel()
        found, self._socket = self._socket, None
        if found is not None:
            self._loop.remove_reader(found)
            found.close()


class Watch:
    """Calls on_removed once when the device at an address is removed. It works from its creation to close().

    A driver may delay the removal of its device: vfio-pci does, and asks for the device by an interrupt of its own.
    Until it agrees, nothing is seen here.
    """

    def __init__(self, address: str, on_removed: Callable[[], None], host: Host | None = None) -> None:
        self._address = parse_address(address)
        self._path = (host or Host()).sys / "bus/pci/devices" / self._address
        self._on_removed = on_removed
        self._was = identity(self._path)
        self._monitor = Monitor(self._look, PERIOD_S)

    def _look(self, event: Uevent | None) -> None:
        if event is not None and event.address != self._address:
            return
        removed = event is not None and event.action == "remove"
        if removed or identity(self._path) != self._was:
            self.close()
            self._on_removed()

    def close(self) -> None:
        """Idempotent."""
        self._monitor.close()


def identity(path: Path) -> int:
    """A number that tells a device from a later one at the same address; 0 if there is no device."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _open_socket() -> socket.socket | None:
    with contextlib.ExitStack() as failure:
        try:
            found = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                NETLINK_KOBJECT_UEVENT,
            )
            failure.callback(found.close)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            found.bind((0, KERNEL_GROUP))
        except OSError as error:
            log.warning("uevents: %s: devices are checked from time to time instead", error.strerror)
            return None
        failure.pop_all()
        return found
