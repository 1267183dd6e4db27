"""A service manager that hears what a service tells it: a datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + address[1:] if address[0] == "@" else address)
        heard.setblocking(False)
        yield heard


def said(heard: socket.socket) -> list[str]:
    """All that was sent since the last time."""
    lines = []
    while True:
        try:
            lines += heard.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


def environment(address: Path | str, watchdog_s: float = 0, pid: int = 0) -> dict[str, str]:
    found = {"NOTIFY_SOCKET": str(address), "KEPT": "yes"}
    if watchdog_s:
        found |= {"WATCHDOG_USEC": str(int(watchdog_s * 1e6)), "WATCHDOG_PID": str(pid or os.getpid())}
    return found
