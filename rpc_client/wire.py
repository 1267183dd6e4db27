"""How a request reaches a daemon: the interface, and Unix sockets. http.py has URLs."""

from __future__ import annotations

import socket
import time
from typing import Protocol

from rpc_client.errors import BadReply, ConnectFailed, ConnectionLost

MAX_REPLY_BYTES = 32 << 20
RECEIVE_BYTES = 256 << 10


class Wire(Protocol):
    def exchange(self, request: bytes, deadline: float) -> bytes:
        """One request, one answer. Raises ClientError, or TimeoutError at the deadline (of time.monotonic())."""

    def close(self) -> None: ...


class UnixSocket:
    """Answers are one line each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes, deadline: float) -> bytes:
        try:
            connected = self._connect(deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectFailed(f"connect to {self._path}: {error.strerror or error}") from error
        try:
            connected.settimeout(left(deadline))
            connected.sendall(request)
            return self._receive_line(connected, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLost(f"{self._path}: {error.strerror or error}") from error

    def _connect(self, deadline: float) -> socket.socket:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                fresh.settimeout(left(deadline))
                fresh.connect(self._path)
            except BaseException:
                fresh.close()
                raise
            self._socket = fresh
        return self._socket

    def _receive_line(self, connected: socket.socket, deadline: float) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            connected.settimeout(left(deadline))
            piece = connected.recv(RECEIVE_BYTES)
            if not piece:
                raise ConnectionLost(f"{self._path} closed the connection without an answer")
            received += piece
            if len(received) > MAX_REPLY_BYTES:
                raise BadReply(f"the answer has more than {MAX_REPLY_BYTES} bytes")
        return bytes(received)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def left(deadline: float) -> float:
    """Seconds until the deadline; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
