"""The serial line between the guest and its host: a JSON object a line.

The guest speaks: {"tell": kind, "value": ...} wants no answer; {"ask": name, "args": {...}} is answered by
{"result": ...} or {"error": message} before the guest says anything else.
"""

from __future__ import annotations

import json
import os
import select
import termios
import time
import tty
from typing import Any

DEVICE = "/dev/ttyS1"
CHUNK = 65536


class LineClosed(Exception):
    """The other side is gone."""


class LineSilent(Exception):
    """Nothing came within the deadline."""


class Line:
    """One end, over a file descriptor that it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._received = b""

    def close(self) -> None:
        os.close(self._fd)

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message; raises LineSilent or LineClosed."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise LineSilent(f"nothing for {seconds:g} s")
            data = os.read(self._fd, CHUNK)
            if not data:
                raise LineClosed
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


class HostError(Exception):
    """What the host could not do for the guest."""


class GuestLine(Line):
    """The guest's end."""

    def __init__(self) -> None:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(fd)
        termios.tcflush(fd, termios.TCIOFLUSH)
        super().__init__(fd)

    def tell(self, kind: str, value: Any = None) -> None:
        self.send({"tell": kind, "value": value})

    def ask(self, question: str, seconds: float = 60.0, /, **args: Any) -> Any:
        """The host's answer; raises HostError with its message."""
        self.send({"ask": question, "args": args})
        answer = self.receive(seconds)
        if "error" in answer:
            raise HostError(answer["error"])
        return answer["result"]
