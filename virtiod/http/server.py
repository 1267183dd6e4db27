"""The HTTP server: where it listens, and what it must not listen on."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from functools import partial

from aiohttp import web
from aiohttp.http import HttpProcessingError

from virtiod.core.errors import ConnectError, InvalidArgument, VirtiodError
from virtiod.core.threads import read_in_thread
from virtiod.http.security.connections import Connections
from virtiod.http.security.tls import Tls
from virtiod.http.security.tokens import Tokens

MAX_LINE = 4096  # bytes of the request line, and of a header
CONNECTIONS = web.AppKey("CONNECTIONS", Connections)
_BACKLOG = 128
_CLOSE_S = 1.0  # for pages that are being written, when the server stops

logger = logging.getLogger(__name__)

# For aiohttp, which would log a traceback for each malformed request: a client could fill the log with them.
_requests = logging.getLogger(f"{__name__}.requests")
_requests.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class HttpServer:
    """Serves an application, which has its CONNECTIONS, at host and port (0: any that is free).

    listener: a socket that listens already, instead of host and port.
    tokens: those that the application asks for, so that they can be reloaded; None when it asks for none.
    """

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        tls: Tls | None = None,
        tokens: Tokens | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.app = app
        self.host, self.port = host, port
        self._handed = listener
        self.connections = app[CONNECTIONS]
        self._tls, self._tokens = tls, tokens
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            lingering_time=0,
            shutdown_timeout=_CLOSE_S,
            auto_decompress=False,
            logger=_requests,
        )

    async def start(self) -> None:
        """Listens. Raises InvalidArgument or ConnectError, and leaves nothing behind then."""
        await self._runner.setup()
        assert self._runner.server is not None
        try:
            listeners = await self._listen() if self._handed is None else [self._take(self._handed)]
        except VirtiodError:
            await self.stop()
            raise
        self._warn_of_others(listeners)
        self.connections.start(listeners, self._runner.server, self._tls)
        logger.info("HTTP%s at %s", "S" if self._tls else "", self._where(listeners[0]))

    async def stop(self) -> None:
        """Ends the listeners and all connections. Idempotent."""
        await self.connections.stop()
        await self._runner.cleanup()

    def reload(self) -> None:
        """Reads tokens and certificates again. Raises InvalidArgument, and keeps those it can't read again."""
        for files in (self._tokens, self._tls):
            if files is not None:
                files.reload()

    def _where(self, listener: socket.socket) -> str:
        if listener.family == socket.AF_UNIX:
            return f"unix:{listener.getsockname()}"
        self.host, self.port = listener.getsockname()[:2]
        return f"{self.host} port {self.port}"

    def _check_secrecy(self, where: str, host: str) -> None:
        if self._tokens is not None and self._tls is None and not ipaddress.ip_address(host).is_loopback:
            raise InvalidArgument(f"{where}: tokens would be sent unencrypted (give --http-cert, or use loopback)")

    def _warn_of_others(self, listeners: list[socket.socket]) -> None:
        """Says who can read the pages, where nothing keeps other hosts from them."""
        if self._tokens is not None or (self._tls is not None and self._tls.asks_clients):
            return
        for listener in listeners:
            if listener.family != socket.AF_UNIX and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
                logger.warning(
                    "%s: without --http-tokens, everybody who reaches it can read metrics and the live page, with the "
                    "names of all disks (give tokens, or use loopback)",
                    self._where(listener),
                )

    def _take(self, listener: socket.socket) -> socket.socket:
        if listener.family != socket.AF_UNIX:
            address = listener.getsockname()
            self._check_secrecy(f"HTTP at {address[0]} port {address[1]}", address[0])
        return listener

    async def _listen(self) -> list[socket.socket]:
        where = f"HTTP at {self.host} port {self.port}"
        listeners: list[socket.socket] = []
        look_up = partial(socket.getaddrinfo, self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            found = await read_in_thread(look_up, f"look up {self.host}")
            for family, kind, protocol, _, address in dict.fromkeys(found):
                self._check_secrecy(where, str(address[0]))
                listener = socket.socket(family, kind, protocol)
                listeners.append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
                listener.listen(_BACKLOG)
        except BaseException as error:
            for listener in listeners:
                listener.close()
            if isinstance(error, socket.gaierror):
                raise InvalidArgument(f"{where}: {error.strerror}") from error
            if isinstance(error, OSError):
                why = os.strerror(error.errno) if error.errno else str(error)
                raise ConnectError(f"{where}: {why}", error.errno) from error
            raise
        return listeners
