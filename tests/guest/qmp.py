"""QEMU's monitor, as far as tests drive it."""

from __future__ import annotations

import time
from typing import Any

from tests.guest.line import Line

ANSWER_S = 60.0


class QmpError(Exception):
    """A command that QEMU refused."""


class Qmp:
    """The monitor at a socket's other end. Events are kept until somebody waits for them."""

    def __init__(self, fd: int) -> None:
        self._line = Line(fd)
        self._events: list[dict[str, Any]] = []
        self._line.receive(ANSWER_S)  # the greeting
        self.command("qmp_capabilities")

    def close(self) -> None:
        self._line.close()

    def command(self, name: str, /, **arguments: Any) -> Any:
        """What QEMU returns."""
        self._line.send({"execute": name, "arguments": arguments})
        while True:
            answer = self._line.receive(ANSWER_S)
            if "error" in answer:
                raise QmpError(f"{name} {arguments}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)

    def wait_event(self, name: str, device: str, seconds: float = ANSWER_S) -> None:
        """Until QEMU has sent the event for the device."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self._events:
                if event["event"] == name and event["data"].get("device") == device:
                    self._events.remove(event)
                    return
            self._events.append(self._line.receive(deadline - time.monotonic()))
