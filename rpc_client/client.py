"""Calls methods over a Unix socket or HTTP, one at a time, each with a deadline in real time."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rpc_client.errors import TimedOut
from rpc_client.methods import Methods
from rpc_client.places import DEFAULT_ADDRESS, found
from rpc_client.protocol import Session, allowance
from rpc_client.url import Access
from rpc_client.wire import Deadline, UnixSocket, Wire

DEFAULT_TIMEOUT_S = 60.0


def wire_of(address: str, access: Access | None) -> Wire:
    if address.startswith(("http://", "https://")):
        from rpc_client.http import Http  # what takes long to import is imported where it is needed

        return Http(address, access or Access())
    return UnixSocket(address.removeprefix("unix:"))


class Client(Methods):
    """A daemon at a Unix socket's path ("unix:" may stand before it) or an http(s) URL. Connects at the first call.

    address: by default the system's daemon, or the user's own if the system's can't be used.

    timeout_s: of a call, from connecting to the last byte of the answer; a call with a time_s may take that longer.
    connect_timeout_s: of connecting alone. access: for URLs, how to show who one is, and whom to trust. Not for several
    threads at once.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        connect_timeout_s: float | None = None,
        access: Access | None = None,
    ) -> None:
        self.address = address = found(address)
        self.timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._session = Session()
        self._wire = wire_of(address, access)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. May be called twice; the next call connects again."""
        self._wire.close()
        self._session = Session()

    def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:
        limit_s = allowance(self.timeout_s, params) if timeout_s is None else timeout_s
        _, request = self._session.request(method, params)
        try:
            reply = self._wire.exchange(request, Deadline(limit_s, self._connect_timeout_s))
            (answer,) = self._session.answers(reply)
        except TimeoutError:
            self.close()  # or its answer would come to the next call
            raise TimedOut(f"{method}: no answer from {self.address} within {limit_s:g} s") from None
        except BaseException:
            self.close()
            raise
        if answer.error is not None:
            raise answer.error
        return answer.result
