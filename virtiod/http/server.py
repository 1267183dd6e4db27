"""The listening socket. Each connection carries one request and lasts CONNECTION_S at most; when there are too many
the oldest is cut off, which a slow client's is by nature."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

from aiohttp import web

from virtiod.errors import ConnectError, InvalidArgument

CONNECTION_S = 30.0
MAX_CONNECTIONS = 32
MAX_LINE = 4096  # bytes of the request line, and of a header
_BACKLOG = 16
_REAP_S = 1.0
_CLOSE_S = 1.0  # for pages that are being written, when the server stops

logger = logging.getLogger(__name__)


class HttpServer:
    """Serves an application at host and port (0: any that is free)."""

    def __init__(self, app: web.Application, host: str, port: int, connection_s: float = CONNECTION_S) -> None:
        self.host, self.port = host, port
        self._connection_s = connection_s
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            lingering_time=0,
            shutdown_timeout=_CLOSE_S,
        )
        self._listener: asyncio.Server | None = None
        self._reaper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens. Raises InvalidArgument or ConnectError, and leaves nothing behind then."""
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._connection, self.host, self.port, backlog=_BACKLOG
            )
        except OSError as error:
            await self.stop()
            where = f"HTTP at {self.host} port {self.port}"
            if isinstance(error, socket.gaierror):
                raise InvalidArgument(f"{where}: {error.strerror}") from error
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConnectError(f"{where}: {why}", error.errno) from error
        self.port = self._listener.sockets[0].getsockname()[1]
        self._reaper = asyncio.create_task(self._reap(), name="HTTP deadlines")
        logger.info("HTTP at %s port %d", self.host, self.port)

    async def stop(self) -> None:
        """Ends the listener and all connections. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._reaper is not None:
            self._reaper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reaper
            self._reaper = None
        await self._runner.cleanup()

    def connections(self) -> list[web.RequestHandler]:
        """Those that are open, oldest first."""
        return self._runner.server.connections if self._runner.server else []

    def _connection(self) -> asyncio.Protocol:
        connections = self.connections()
        for oldest in connections[: max(0, len(connections) + 1 - MAX_CONNECTIONS)]:
            _cut_off(oldest)
        assert self._runner.server is not None
        return self._runner.server()

    async def _reap(self) -> None:
        seen: dict[web.RequestHandler, float] = {}
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(_REAP_S, self._connection_s))
            seen = {connection: seen.get(connection, now()) for connection in self.connections()}
            for connection, since in seen.items():
                if now() - since >= self._connection_s:
                    _cut_off(connection)


def _cut_off(connection: web.RequestHandler) -> None:
    if connection.transport is not None:
        connection.transport.abort()
