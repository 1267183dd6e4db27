"""Listeners: accept clients on a Unix or TCP socket, negotiate with each, hand the socket to the data plane.

A client that is slow, silent or hostile costs one of MAX_NEGOTIATING places until its deadline or, if another client
needs the place, for as long as places.py says. One of the same process waits for a place shortly, then it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from virtiod.core.errors import AlreadyExists, Busy, ConnectError, InvalidArgument
from virtiod.core.lograte import LogRate
from virtiod.core.peers import Peer, peer_of
from virtiod.core.tasks import cancel, spawn
from virtiod.exports.nbd.export import Client
from virtiod.exports.nbd.handshake import Directory, Handshake, Phase
from virtiod.exports.nbd.places import Place, Places

log = logging.getLogger(__name__)

DEFAULT_PORT = 10809  # "Newstyle negotiation": assigned by IANA
HANDSHAKE_S = 10.0  # from accept to transmission
MAX_NEGOTIATING = 128  # on one listener; more wait in the backlog
MAX_OF_PEER = 64  # of them, of one process or, over TCP, one address
OWN_WAIT_S = 0.25  # that a client waits for one of its own process, and holds up others meanwhile
PLACE_POLL_S = 0.01
BACKLOG = 256
RECEIVE = 16 << 10
SOCKET_BUFFER = 1 << 20  # asked for; the kernel caps it: fewer, larger sends
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 6}  # seconds, seconds, tries
ACCEPT_RETRY_S = 0.1  # after accept failed, as without free file descriptors

Connect = Callable[[str, str], Client]  # (export name, peer): reserves a connection


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`unix:PATH` with the socket's mode, or `tcp:HOST:PORT` (a numeric address)."""

    path: str = ""
    mode: int = 0o600
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str, mode: int = 0o600) -> ListenAddress:
        """Parses `unix:/run/x.sock`, `tcp`, `tcp:127.0.0.1`, `tcp:0.0.0.0:10809`, `tcp:[::1]:10809`.

        TCP is on the loopback address unless another is given. Raises InvalidArgument.
        """
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(path=rest, mode=mode)
        if kind != "tcp":
            raise InvalidArgument(f"listen address {text!r}: must be unix:PATH or tcp:HOST:PORT")
        host, port = rest, ""
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        elif ":" in rest:
            host, _, port = rest.rpartition(":")
        try:
            address = ipaddress.ip_address(host or "127.0.0.1")
            number = int(port or DEFAULT_PORT)
        except ValueError as error:
            raise InvalidArgument(f"listen address {text!r}: {error}") from None
        if not 0 <= number <= 65535:
            raise InvalidArgument(f"listen address {text!r}: port {number} is not 0 to 65535")
        return cls(host=str(address), port=number)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    def uri(self, quoted_name: str) -> str:
        """The NBD URI of an export at this address."""
        if self.path:
            return f"nbd+unix:///{quoted_name}?socket={quote(self.path)}"
        return f"nbd://{str(self).removeprefix('tcp:')}/{quoted_name}"


class Listener:
    """One listening socket, and the negotiations on it."""

    def __init__(
        self, sock: socket.socket, address: ListenAddress, directory: Directory, connect: Connect, owner: bool = True
    ) -> None:
        self.address = address
        self._owner = owner
        self._sock = sock
        self._directory = directory
        self._connect = connect
        self._places = Places(MAX_NEGOTIATING, MAX_OF_PEER)
        self._negotiations: set[asyncio.Task[None]] = set()
        self._said = LogRate(log)
        self._acceptor = spawn(self._accept(), f"NBD accept on {address}")

    @classmethod
    async def open(cls, address: ListenAddress, directory: Directory, connect: Connect) -> Listener:
        """Listens at `address`. Raises ConnectError with the errno of bind(2), Busy when the address is in use."""
        sock = _bind_unix(address) if address.path else _bind_tcp(address)
        if not address.path:
            address = ListenAddress(host=address.host, port=sock.getsockname()[1])
        log.info("NBD listens on %s", address)
        return cls(sock, address, directory, connect)

    @classmethod
    async def take(cls, sock: socket.socket, directory: Directory, connect: Connect) -> Listener:
        """Serves a socket that listens already, and whose path is not removed."""
        name = sock.getsockname()
        address = (
            ListenAddress(path=name) if sock.family == socket.AF_UNIX else ListenAddress(host=name[0], port=name[1])
        )
        log.info("NBD listens on %s, which was handed over", address)
        return cls(sock, address, directory, connect, owner=False)

    async def close(self) -> None:
        """Stops listening and drops the clients that still negotiate. Connected ones stay."""
        await cancel(self._acceptor, *self._negotiations)
        self._sock.close()
        if self.address.path and self._owner:
            _unlink(self.address.path)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                self._said.say(logging.WARNING, "accept", "NBD accept on %s: %s", self.address, error.strerror)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await self._admit(client)
            except OSError:  # it has gone already
                client.close()
            except Exception:
                client.close()
                log.exception("NBD on %s: a client was not served", self.address)
            except BaseException:
                client.close()
                raise

    async def _admit(self, client: socket.socket) -> None:
        """Gives it a place, as soon as there is one; closes it if its own process keeps all that it may have."""
        _tune(client)
        peer = peer_of(client)
        if not await self._make_room(peer):
            client.close()
            return
        task = spawn(self._negotiate(client, peer), f"NBD negotiation on {self.address}")
        self._negotiations.add(task)
        task.add_done_callback(self._negotiations.discard)
        await asyncio.sleep(0)  # those that negotiate get their turn, however many come

    async def _make_room(self, peer: Peer) -> bool:
        """Returns whether there is a place for the peer."""
        now = asyncio.get_running_loop().time
        ends = now() + OWN_WAIT_S
        while (place := self._places.in_the_way(peer)) is not None:
            if now() >= place.yields_at:
                self._places.leave(place)
                place.drop()
                self._crowded("%s was slow and made room for another", place.peer.name)
            elif place.is_of(peer) and now() >= ends:
                self._crowded("%s has too many of them: one was closed", peer.name)
                return False
            else:
                await asyncio.sleep(PLACE_POLL_S)
        return True

    def _crowded(self, message: str, who: str) -> None:
        told = f"NBD on %s: %d clients negotiate; {message}"
        self._said.say(logging.WARNING, message, told, self.address, len(self._places), who)

    async def _negotiate(self, sock: socket.socket, peer: Peer) -> None:
        """Owns `sock` until a client starts."""
        handshake = Handshake(self._directory)
        client: Client | None = None
        negotiation = asyncio.current_task()
        assert negotiation is not None
        place = self._places.take(peer, asyncio.get_running_loop().time(), negotiation.cancel)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                client = await self._run_negotiation(sock, handshake, place)
        except (TimeoutError, OSError) as error:
            handshake.reason = str(error) or f"no negotiation within {HANDSHAKE_S:g} s"
        finally:
            self._places.leave(place)
            if client is None:
                sock.close()
        if client is None:
            log.debug("%s: NBD negotiation ended: %s", peer.name, handshake.reason)
            return
        client.start(sock, handshake.leftover, handshake.structured)

    async def _run_negotiation(self, sock: socket.socket, handshake: Handshake, place: Place) -> Client | None:
        """Negotiates until the client has chosen an export; None when it is to be closed instead."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, handshake.greeting())
        while True:
            while (answer := handshake.next_reply()) is not None:
                if handshake.export is not None:  # the place there is taken before anything else can run
                    self._places.leave(place)
                    return await self._enter(sock, handshake.export.name, place.peer.name, answer)
                await loop.sock_sendall(sock, answer)
            if handshake.phase is Phase.CLOSED:
                return None
            data = await loop.sock_recv(sock, RECEIVE)
            if not data:
                handshake.reason = "client left"
                return None
            place.heard = loop.time()
            handshake.feed(data)

    async def _enter(self, sock: socket.socket, name: str, peer: str, answer: bytes) -> Client:
        client = self._connect(name, peer)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, answer)
        except BaseException:
            client.end("left during the last reply")
            raise
        return client


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _bind_tcp(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConnectError(f"listen on {address}: {error.strerror}", error.errno) from error
    return sock


def _bind_unix(address: ListenAddress) -> socket.socket:
    _remove_stale(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(sock.fileno(), address.mode)  # bind creates the file with this mode, less the umask
        sock.bind(address.path)
        Path(address.path).chmod(address.mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        # "AF_UNIX path too long" has no errno
        raise ConnectError(f"listen on {address}: {error.strerror or error}", error.errno) from error
    return sock


def _remove_stale(path: str) -> None:
    """Removes the socket of a process that is gone. Busy if one listens, AlreadyExists if it is no socket."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise AlreadyExists(f"listen on unix:{path}: it exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
                return
            except BlockingIOError:  # its backlog is full
                pass
        raise Busy(f"listen on unix:{path}: another process listens there")
