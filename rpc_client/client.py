"""Calls methods over a Unix socket or HTTP, one at a time, each with a deadline in real time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rpc_client.errors import BadReply, MethodError, TimedOut
from rpc_client.http import Access, Http
from rpc_client.wire import UnixSocket, Wire

DEFAULT_ADDRESS = "/run/virtiod/virtiod.sock"
DEFAULT_TIMEOUT_S = 60.0


class Client:
    """A daemon at a Unix socket's path ("unix:" may stand before it) or an http(s) URL. Connects at the first call.

    timeout_s: of a call, from connecting to the last byte of the answer. access: for URLs, how to show who one is, and
    whom to trust. Not for several threads at once.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        access: Access | None = None,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._last_id = 0
        self._wire: Wire
        if address.startswith(("http://", "https://")):
            self._wire = Http(address, access or Access())
        else:
            self._wire = UnixSocket(address.removeprefix("unix:"))

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
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        try:
            reply = _decode(self._wire.exchange(json.dumps(request).encode(), deadline))
            return _result(reply, method, self._last_id)
        except MethodError:
            raise
        except TimeoutError:
            self.close()  # or its answer would come to the next call
            raise TimedOut(f"{method}: no answer from {self.address} within {limit_s:g} s") from None
        except BaseException:
            self.close()
            raise


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise BadReply(f"the answer is not JSON: {error}") from error


def _result(reply: Any, method: str, request_id: int) -> Any:
    if not isinstance(reply, dict) or ("result" in reply) == ("error" in reply):
        raise BadReply(f"{method}: the answer must have either a result or an error")
    if "error" in reply:
        error = reply["error"]
        if not isinstance(error, dict) or not isinstance(error.get("code"), int):
            raise BadReply(f"{method}: the answer's error has no code")
        # An error that could not be ascribed to a request has a null id.
        if reply.get("id") in {request_id, None}:
            raise MethodError(method, error["code"], str(error.get("message", "")), error.get("data"))
    if reply.get("id") != request_id:
        raise BadReply(f"{method}: the answer is for request {reply.get('id')!r}, not for {request_id}")
    return reply["result"]
