"""A service manager that hears what a service tells it: a datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_until


class Told(list[str]):
    """Lines that a service has told since the start; until() reads on."""

    def __init__(self, heard: socket.socket) -> None:
        super().__init__()
        self._heard = heard

    def until(self, what: str) -> None:
        def read() -> bool:
            self.extend(said(self._heard))
            return any(what in line for line in self)

        wait_until(read, f"{what}, among {self}")

    def nothing(self) -> bool:
        """Whether there is nothing to hear."""
        return not said(self._heard)


@contextmanager
def telling(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """A manager of each service that is started meanwhile."""
    with manager(str(run_dir / "notify")) as heard:
        monkeypatch.setenv("NOTIFY_SOCKET", str(run_dir / "notify"))
        yield Told(heard)


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
