"""Hands connections to the pollers, each new one to the poller that has the fewest."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from virtiod.exports.nbd.connection import NbdConnection, NbdPoller
from virtiod.exports.nbd.export import NbdExport
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller


class NbdDataPlane:
    """The pollers that run NBD connections, each with its buffers."""

    def __init__(self, pollers: Sequence[tuple[Poller, PollerBuffers]]) -> None:
        self.pollers = [NbdPoller(poller, buffers) for poller, buffers in pollers]

    @property
    def max_payload(self) -> int:
        """The most bytes of a READ or WRITE, on any poller."""
        return min(poller.max_payload for poller in self.pollers)

    def start(
        self,
        sock: socket.socket,
        export: NbdExport,
        *,
        leftover: bytes,
        structured: bool,
        on_end: Callable[[str], None],
    ) -> NbdConnection:
        """Starts a connection; owns `sock`, also when it raises. `on_end(reason)` is called once, on the event loop."""
        try:
            connection = NbdConnection(
                min(self.pollers, key=lambda poller: poller.connections),
                export.bdev.channels,
                sock.fileno(),
                name=export.name,
                flags=export.info().flags,
                structured=structured,
                leftover=leftover,
                on_end=on_end,
            )
        except BaseException:
            sock.close()
            raise
        sock.detach()
        connection.start()
        return connection
