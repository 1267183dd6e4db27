"""Calls methods from asyncio, any number at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rpc_client.async_methods import AsyncMethods
from rpc_client.client import DEFAULT_TIMEOUT_S
from rpc_client.errors import BadReply, ClientError, ConnectFailed, ConnectionLost, TimedOut
from rpc_client.places import DEFAULT_ADDRESS, found
from rpc_client.protocol import RECEIVE_BYTES, Answer, Lines, Session, allowance
from rpc_client.url import Access


class AsyncWire(Protocol):
    async def exchange(self, method: str, params: Mapping[str, Any] | None) -> Any:
        """The result of a call. Raises ClientError. May be cancelled."""

    async def close(self) -> None: ...


class AsyncClient(AsyncMethods):
    """A daemon at a Unix socket's path ("unix:" may stand before it) or an http(s) URL. Connects at the first call.

    timeout_s: of a call, from connecting to the last byte of the answer; a call with a time_s may take that longer.
    connect_timeout_s: of connecting alone. access: for URLs, how to show who one is, and whom to trust.

    Calls at the same time are answered as they end; one that is cancelled or late disturbs no other. For one event
    loop.
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
        self._wire = _wire_of(address, access, connect_timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls that wait fail. May be called twice; the next call connects again."""
        await self._wire.close()

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        limit_s = allowance(self.timeout_s, params) if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._wire.exchange(method, params)
        except TimeoutError:
            raise TimedOut(f"{method}: no answer from {self.address} within {limit_s:g} s") from None


def _wire_of(address: str, access: Access | None, connect_timeout_s: float | None) -> AsyncWire:
    if address.startswith(("http://", "https://")):
        from rpc_client.aio_http import AsyncHttp  # what takes long to import is imported where it is needed

        return AsyncHttp(address, access or Access(), connect_timeout_s)
    return AsyncUnixSocket(address.removeprefix("unix:"), connect_timeout_s)


class AsyncUnixSocket:
    """One connection at a time for all calls. When it ends, so do the calls that wait on it."""

    def __init__(self, path: str, connect_timeout_s: float | None) -> None:
        self._path = path
        self._connect_timeout_s = connect_timeout_s
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None

    async def exchange(self, method: str, params: Mapping[str, Any] | None) -> Any:
        async with self._connecting:
            if self._connection is None or self._connection.ended:
                await self.close()
                self._connection = await self._connect()
            connection = self._connection
        return await connection.exchange(method, params)

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return _Connection(self._path, *await asyncio.open_unix_connection(self._path))
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectFailed(f"connect to {self._path}: {error.strerror or error}") from error

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


class _Connection:
    """A task of its own receives answers and hands each to the call that waits for it."""

    def __init__(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._session = Session()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._receiving = asyncio.create_task(self._receive(), name=f"answers from {path}")

    @property
    def ended(self) -> bool:
        return self._receiving.done()

    async def exchange(self, method: str, params: Mapping[str, Any] | None) -> Any:
        call_id, request = self._session.request(method, params)
        answered = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(request)
            await self._writer.drain()
            return await answered
        except OSError as error:
            raise ConnectionLost(f"{self._path}: {error.strerror or error}") from error
        finally:
            del self._calls[call_id]
            self._session.drop(call_id)
            if answered.done() and not answered.cancelled():
                answered.exception()  # looked at, should nobody have waited for it

    async def close(self) -> None:
        self._receiving.cancel()
        await asyncio.wait({self._receiving})
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self) -> None:
        why: ClientError = ConnectionLost(f"{self._path}: closed")
        try:
            await self._hand_out()
            why = ConnectionLost(f"{self._path} closed the connection without an answer")
        except BadReply as error:
            why = error
        except OSError as error:
            why = ConnectionLost(f"{self._path}: {error.strerror or error}")
        finally:
            self._writer.transport.abort()
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(why)

    async def _hand_out(self) -> None:
        """Hands out answers until the daemon ends the connection. Raises BadReply or OSError."""
        lines = Lines()
        while data := await self._reader.read(RECEIVE_BYTES):
            for line in lines.feed(data):
                for answer in self._session.answers(line):
                    _settle(self._calls[answer.id], answer)


def _settle(call: asyncio.Future[Any], answer: Answer) -> None:
    if call.done():
        return  # it was cancelled just now
    if answer.error is not None:
        call.set_exception(answer.error)
    else:
        call.set_result(answer.result)
