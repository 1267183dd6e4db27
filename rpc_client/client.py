"""Calls methods over a Unix socket or HTTP, one at a time, each with a deadline in real time.

ClientError
├── ConnectFailed     nobody there, or nobody to talk to
├── ConnectionLost    it ended before the answer came
├── TimedOut          the answer did not come in time; what was asked may still happen
├── BadReply          the answer is not one to what was asked
└── MethodError       the method's own error: code, message, data
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import requests

DEFAULT_ADDRESS = "/run/virtiod/virtiod.sock"
DEFAULT_TIMEOUT_S = 60.0
MAX_REPLY_BYTES = 32 << 20
_RECEIVE_BYTES = 256 << 10


class ClientError(Exception):
    """Base of all."""


class ConnectFailed(ClientError):
    pass


class ConnectionLost(ClientError):
    pass


class TimedOut(ClientError):
    pass


class BadReply(ClientError):
    pass


class MethodError(ClientError):
    """What the daemon answered instead of a result. A negative errno as code tells what went wrong."""

    def __init__(self, method: str, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


class Client:
    """A daemon at a Unix socket's path or an http(s) URL. Connects at the first call.

    timeout_s: of a call, from connecting to the last byte of the answer. credentials: user and password; verify:
    whether to check the certificate, or a file of authorities; both for URLs only. Not for several threads at once.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: tuple[str, str] | None = None,
        verify: bool | str = True,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._last_id = 0
        self._wire: _Wire
        if address.startswith(("http://", "https://")):
            self._wire = _Http(address, credentials, verify)
        else:
            self._wire = _UnixSocket(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. May be called twice; the next call connects again."""
        self._wire.close()

    def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:
        """The result of a method. Raises ClientError."""
        self._last_id += 1
        request: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "id": self._last_id}
        if params:
            request["params"] = dict(params)
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        try:
            reply = _decode(self._wire.exchange(json.dumps(request).encode(), deadline))
            return _result(reply, method, self._last_id)
        except MethodError:
            raise
        except TimeoutError:
            self.close()  # or its answer would come to the next call
            raise TimedOut(f"{method}: no answer from {self.address} in time") from None
        except BaseException:
            self.close()
            raise


class _Wire(Protocol):
    def exchange(self, request: bytes, deadline: float) -> bytes:
        """One request, one answer. Raises ClientError, or TimeoutError at the deadline (of time.monotonic())."""

    def close(self) -> None: ...


class _UnixSocket:
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
            connected.settimeout(_left(deadline))
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
                fresh.settimeout(_left(deadline))
                fresh.connect(self._path)
            except BaseException:
                fresh.close()
                raise
            self._socket = fresh
        return self._socket

    def _receive_line(self, connected: socket.socket, deadline: float) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            connected.settimeout(_left(deadline))
            piece = connected.recv(_RECEIVE_BYTES)
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


class _Http:
    """One POST for each call."""

    def __init__(self, url: str, credentials: tuple[str, str] | None, verify: bool | str) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(path=parts.path or "/rpc"))
        self._session = requests.Session()
        self._session.auth = credentials
        self._session.verify = verify
        self._session.headers["Content-Type"] = "application/json"

    def exchange(self, request: bytes, deadline: float) -> bytes:
        try:
            with self._session.post(self._url, request, timeout=_left(deadline), stream=True) as response:
                return self._body(response, deadline)
        except requests.Timeout:
            raise TimeoutError from None
        except requests.ConnectionError as error:
            raise ConnectFailed(f"connect to {self._url}: {error}") from error
        except requests.RequestException as error:
            raise ConnectionLost(f"{self._url}: {error}") from error

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        received = bytearray()
        for piece in response.iter_content(_RECEIVE_BYTES):
            _left(deadline)
            received += piece
            if len(received) > MAX_REPLY_BYTES:
                raise BadReply(f"the answer has more than {MAX_REPLY_BYTES} bytes")
        # An error of a method may come with a status of its own; what is no JSON comes from HTTP itself.
        if not response.ok and not received.lstrip().startswith((b"{", b"[")):
            raise ConnectFailed(f"{self._url}: {response.status_code} {response.reason}")
        return bytes(received)

    def close(self) -> None:
        self._session.close()


def _left(deadline: float) -> float:
    """Seconds until the deadline; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise BadReply(f"the answer is not JSON: {error}") from error


def _result(reply: Any, method: str, request_id: int) -> Any:
    if not isinstance(reply, dict) or ("result" in reply) == ("error" in reply):
        raise BadReply(f"{method}: the answer has not either a result or an error")
    if "error" in reply:
        error = reply["error"]
        if not isinstance(error, dict) or not isinstance(error.get("code"), int):
            raise BadReply(f"{method}: the answer's error has no code")
        # An error that could not be ascribed to a request has a null id.
        if reply.get("id") in {request_id, None}:
            raise MethodError(method, error["code"], str(error.get("message", "")), error.get("data"))
    if reply.get("id") != request_id:
        raise BadReply(f"{method}: the answer is to request {reply.get('id')!r}, not to {request_id}")
    return reply["result"]
