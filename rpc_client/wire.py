"""How the synchronous client reaches a daemon: the interface, deadlines, and Unix sockets. http.py has URLs."""

from __future__ import annotations

import socket
import time
from typing import Protocol

from rpc_client.errors import BadReply, ConnectFailed, ConnectionLost
from rpc_client.protocol import RECEIVE_BYTES, Lines


class Deadline:
    """seconds: for all of a call. connect_s: for connecting alone, if it may not take as long."""

    def __init__(self, seconds: float, connect_s: float | None = None) -> None:
        self._ends = time.monotonic() + seconds
        self._connected = self._ends if connect_s is None else min(self._ends, time.monotonic() + connect_s)

    def left(self) -> float:
        """The seconds that are left; raises TimeoutError when there are none."""
        return _left(self._ends)

    def to_connect(self) -> float:
        """The seconds that are left to connect; raises TimeoutError when there are none."""
        return _left(self._connected)


class Wire(Protocol):
    def exchange(self, request: bytes, deadline: Deadline) -> bytes:
        """One request, one reply. Raises ClientError, or TimeoutError at the deadline."""

    def close(self) -> None: ...


class UnixSocket:
    """Replies are one line each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes, deadline: Deadline) -> bytes:
        try:
            connected = self._connect(deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectFailed(f"connect to {self._path}: {error.strerror or error}") from error
        try:
            connected.settimeout(deadline.left())
            connected.sendall(request)
            return self._receive_line(connected, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLost(f"{self._path}: {error.strerror or error}") from error

    def _connect(self, deadline: Deadline) -> socket.socket:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                fresh.settimeout(deadline.to_connect())
                fresh.connect(self._path)
            except BaseException:
                fresh.close()
                raise
            self._socket = fresh
        return self._socket

    def _receive_line(self, connected: socket.socket, deadline: Deadline) -> bytes:
        lines = Lines()
        while True:
            connected.settimeout(deadline.left())
            piece = connected.recv(RECEIVE_BYTES)
            if not piece:
                raise ConnectionLost(f"{self._path} closed the connection without an answer")
            replies = lines.feed(piece)
            if len(replies) > 1:
                raise BadReply(f"{self._path} sent {len(replies)} answers to one request")
            if replies:
                return replies[0]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
