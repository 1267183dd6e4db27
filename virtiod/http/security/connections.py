"""How many connections there may be, and how long each may take: what a client can cost before it has sent anything.

A connection carries one request. It has REQUEST_S to be made (with TLS, the handshake too) and RESPONSE_S to be
answered; only a call that runs may take its own time. When there are too many, the oldest of the address that has
most is cut off: a client that is slow, by nature. An address that connects too often is cut off at once. On a Unix
socket, a user stands for an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from virtiod.core.lograte import LogRate
from virtiod.core.peers import Peer, peer_of
from virtiod.core.tasks import cancel, keep_going, spawn
from virtiod.http.security.buckets import Buckets
from virtiod.http.security.tls import Tls

MAX_CONNECTIONS = 64  # of those that have no call running
REQUEST_S = 10.0
RESPONSE_S = 30.0
PER_S, AT_ONCE = 200.0, 400.0  # connections of one address
DRAIN_BYTES, DRAIN_S = 1 << 20, 1.0
_ACCEPTS_PER_ROUND = 64
_REAP_S = 1.0
_NO_FILES_S = 1.0  # until connections are accepted again when there are no file descriptors
_RESET = struct.pack("ii", 1, 0)

PEER = web.RequestKey("PEER", Peer)  # who sent a request
_GONE = Peer("?", "?")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Connection:
    peer: Peer
    protocol: web.RequestHandler
    deadline: float  # of the loop's time; infinite while a call runs
    opening: asyncio.Task[None] | None = field(default=None)

    def gone(self) -> bool:
        return self.protocol.transport is None and (self.opening is None or self.opening.done())

    def cut_off(self) -> None:
        if self.protocol.transport is not None:
            self.protocol.transport.abort()
        elif self.opening is not None:
            self.opening.cancel()


class Connections:
    """Event-loop thread only. request_s: instead of REQUEST_S; response_s likewise."""

    def __init__(self) -> None:
        self.request_s, self.response_s = REQUEST_S, RESPONSE_S
        self._open: dict[web.RequestHandler, _Connection] = {}  # oldest first
        self._budget = Buckets(PER_S, AT_ONCE)
        self._said = LogRate(logger)
        self._listeners: list[socket.socket] = []
        self._reaper: asyncio.Task[None] | None = None
        self._tls: Tls | None = None

    def __len__(self) -> int:
        self._forget()
        return len(self._open)

    def start(self, listeners: list[socket.socket], factory: Callable[[], web.RequestHandler], tls: Tls | None) -> None:
        """Starts to accept connections. stop() closes the listeners."""
        self._factory, self._tls, self._listeners = factory, tls, listeners
        for listener in listeners:
            listener.setblocking(False)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        self._reaper = spawn(keep_going(self._reap, "HTTP deadlines"), "HTTP deadlines")

    async def stop(self) -> None:
        """Accepts no more connections, and ends those without a request. Idempotent."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners = []
        await cancel(self._reaper, *(one.opening for one in self._open.values()))
        self._reaper = None

    @contextlib.contextmanager
    def unhurried(self, protocol: web.RequestHandler) -> Iterator[None]:
        """Suspends the deadline of a connection while a call runs."""
        self._set_deadline(protocol, float("inf"))
        try:
            yield
        finally:
            self._set_deadline(protocol, self.response_s)

    def middleware(self) -> Middleware:
        """The first middleware: once there is a request, the deadline is that of the response."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(request.protocol)
            request[PEER] = connection.peer if connection else _GONE
            self._set_deadline(request.protocol, self.response_s)
            try:
                response = await handler(request)
            except web.HTTPException:
                await _drain(request)
                raise
            await _drain(request)
            return response

        return middleware

    def _set_deadline(self, protocol: web.RequestHandler, seconds: float) -> None:
        if protocol in self._open:
            self._open[protocol].deadline = asyncio.get_running_loop().time() + seconds

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS_PER_ROUND):
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("accept a connection: %s", error.strerror)
                loop.remove_reader(listener)
                loop.call_later(_NO_FILES_S, self._resume, listener)
                return
            try:
                self._admit(accepted)
            except OSError:  # it has gone already
                accepted.close()
            except Exception:
                accepted.close()
                logger.exception("a connection was not served")

    def _admit(self, accepted: socket.socket) -> None:
        peer, now = peer_of(accepted), asyncio.get_running_loop().time()
        if self._budget.take(peer.origin, now):
            self._said.say(logging.WARNING, "often", "%s connects too often: it is cut off", peer.name)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            accepted.close()
            return
        self._make_room()
        connection = _Connection(peer, self._factory(), now + self.request_s)
        self._open[connection.protocol] = connection
        connection.opening = spawn(self._serve(connection, accepted), f"HTTP connection of {peer.name}")

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _serve(self, connection: _Connection, accepted: socket.socket) -> None:
        secure = {} if self._tls is None else {"ssl_handshake_timeout": self.request_s, "ssl_shutdown_timeout": 1.0}
        try:
            accepted.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection.protocol, accepted, ssl=None if self._tls is None else self._tls.context, **secure
            )
        except (OSError, EOFError) as error:
            logger.debug("%s: %s", connection.peer.name, error)
            accepted.close()
        except BaseException:
            accepted.close()
            raise

    def _make_room(self) -> None:
        self._forget()
        hurried = [one for one in self._open.values() if one.deadline < float("inf")]
        if len(hurried) >= MAX_CONNECTIONS:
            (most, _), *_ = Counter(one.peer.origin for one in hurried).most_common(1)
            oldest = next(one for one in hurried if one.peer.origin == most)
            del self._open[oldest.protocol]
            oldest.cut_off()
            told = "%d connections: the oldest, of %s, is cut off"
            self._said.say(logging.WARNING, "many", told, len(hurried), oldest.peer.name)

    def _forget(self) -> None:
        """Forgets the connections that have ended."""
        for protocol in [protocol for protocol, one in self._open.items() if one.gone()]:
            del self._open[protocol]

    async def _reap(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(_REAP_S, self.request_s, self.response_s))
            self._forget()
            for connection in list(self._open.values()):
                if now() >= connection.deadline:
                    connection.cut_off()


async def _drain(request: web.Request) -> None:
    """Reads the rest of a small body that no handler read: a connection that is closed on unread data is reset, and
    the client might not see the answer. A client that asked before it sends its body (Expect) sends none."""
    left = DRAIN_BYTES
    if "Expect" in request.headers or (request.content_length or 0) > left:
        return
    with contextlib.suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
        async with asyncio.timeout(DRAIN_S):
            while left > 0 and not request.content.is_eof():
                left -= len(await request.content.readany())
