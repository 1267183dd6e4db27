"""JSON-RPC on a Unix stream socket.

Each request runs as a task of its own, so answers come in the order in which they are ready. A client can cost
only its own connection: what it may have in flight is bounded, and one that does not read its answers is disconnected.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import select
import socket
import stat
from asyncio.trsock import TransportSocket
from functools import partial
from pathlib import Path

from virtiod.api.caller import Caller, Role
from virtiod.api.errors import INTERNAL_ERROR, PARSE_ERROR
from virtiod.core.errors import Busy, ConnectError, InvalidArgument
from virtiod.core.lograte import LogRate
from virtiod.core.peers import credentials
from virtiod.core.tasks import spawn
from virtiod.core.threads import read_in_thread
from virtiod.rpc.protocol.dispatcher import Dispatcher, encode, error_line
from virtiod.rpc.protocol.framer import Framer

MAX_CONNECTIONS = 64
MAX_IN_FLIGHT = 128  # requests of one connection
WRITE_TIMEOUT_S = 10.0  # without a byte taken
_READ_BYTES = 64 * 1024
_HANGUP_CHECK_S = 1.0
_CLOSE_TIMEOUT_S = 0.5  # for answers that are ready, when the server closes

logger = logging.getLogger(__name__)


class RpcServer:
    """Serves a dispatcher at `path`, guarded by `path`.lock.

    listener: a Unix socket that listens already; then its path is used, and not removed when the server closes.
    """

    def __init__(
        self,
        path: str,
        dispatcher: Dispatcher,
        *,
        group: str | None = None,
        listener: socket.socket | None = None,
        max_connections: int = MAX_CONNECTIONS,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self.path = path if listener is None else listener.getsockname()
        self._handed = listener
        self._dispatcher = dispatcher
        self._group = group
        self._max_connections = max_connections
        self._write_timeout_s = write_timeout_s
        self._lock: SocketLock | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._said = LogRate(logger)

    def claim(self) -> None:
        """Makes sure that no other process serves this path until close(). Raises Busy or InvalidArgument."""
        self._lock = SocketLock(self.path)

    async def start(self) -> None:
        """Listens. Raises InvalidArgument or ConnectError when the socket can't be made."""
        listener = self._handed or _bind(self.path, await _gid_of(self._group))
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_READ_BYTES)
        logger.info("RPC at %s", self.path)

    async def disconnect(self) -> None:
        """Stops listening, ends all connections, removes the socket. The path remains claimed."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._handed is None:
                _remove(self.path)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def close(self) -> None:
        """Disconnects and gives up the claim. May be called twice, and after a start that failed."""
        await self.disconnect()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(reader, writer, self._dispatcher, self._write_timeout_s)
        if len(self._connections) >= self._max_connections:
            refused = "%s refused: there are %d connections"
            self._said.say(logging.WARNING, "refused", refused, connection.peer, self._max_connections)
            await connection.refuse(f"too many connections ({self._max_connections})")
            return
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(asyncio.CancelledError):  # which asyncio's own callback can't take before Python 3.12
            await connection.serve()


class _Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        dispatcher: Dispatcher,
        write_timeout_s: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._dispatcher = dispatcher
        self._write_timeout_s = write_timeout_s
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._written = 0
        self._socket: TransportSocket = writer.get_extra_info("socket")
        self._caller = Caller(_peer(self._socket), Role.ADMIN)
        self.peer = f"RPC client {self._caller.name}"

    async def serve(self) -> None:
        logger.info("%s connected", self.peer)
        try:
            await self._read()
            await self._settle(0)
        except asyncio.CancelledError:
            self._write_timeout_s = _CLOSE_TIMEOUT_S  # the server closes
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT_S)
        except OSError as error:
            logger.debug("%s: %s", self.peer, error)
        finally:
            for task in self._tasks:
                task.cancel()
            await self._close()

    async def refuse(self, message: str) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(error_line(INTERNAL_ERROR, message))
        await self._close()

    async def _read(self) -> None:
        framer = Framer()
        while framer.error is None:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                return
            for value in framer.feed(data):
                await self._settle(MAX_IN_FLIGHT - 1)
                task = spawn(self._answer(value), f"answer {self.peer}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        logger.info("%s: %s", self.peer, framer.error)
        await self._settle(0)
        await self._send(error_line(PARSE_ERROR, f"Parse error: {framer.error}"))

    async def _settle(self, in_flight: int) -> None:
        """Waits until no more than `in_flight` requests run. Raises ConnectionError if the client has disconnected."""
        while len(self._tasks) > in_flight:
            await asyncio.wait(self._tasks, timeout=_HANGUP_CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks and _hung_up(self._socket):
                raise ConnectionResetError("the client has disconnected")

    async def _answer(self, value: object) -> None:
        response = await self._dispatcher.handle(value, self._caller)
        if response is not None:
            with contextlib.suppress(OSError):
                await self._send(encode(response))

    async def _send(self, data: bytes) -> None:
        # One answer at a time, so that no more than one is copied into the transport's buffer.
        async with self._sending:
            self._writer.write(data)
            self._written += len(data)
            taken = self._taken()
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._writer.drain(), self._write_timeout_s)
                    return
                if self._taken() <= taken:
                    break
                taken = self._taken()
            logger.warning("%s read nothing for %g s: connection closed", self.peer, self._write_timeout_s)
            self._writer.transport.abort()
            raise ConnectionAbortedError("the client does not read its answers")

    def _taken(self) -> int:
        """How many bytes the kernel has taken."""
        return self._written - self._writer.transport.get_write_buffer_size()

    async def _close(self) -> None:
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), self._write_timeout_s)
        except (OSError, TimeoutError, asyncio.CancelledError):
            self._writer.transport.abort()


class SocketLock:
    """`path`.lock, held for as long as this process serves `path`."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.lock"
        self._fd = -1
        while self._fd < 0:
            self._fd = self._try(path)

    def _try(self, path: str) -> int:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise InvalidArgument(f"open {self._path}: {error.strerror}", error.errno) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between open() and flock().
            if os.fstat(fd).st_ino == Path(self._path).stat().st_ino:
                return fd
        except BlockingIOError:
            os.close(fd)
            raise Busy(f"RPC socket {path} is in use by another process") from None
        except FileNotFoundError:
            pass
        os.close(fd)
        return -1

    def release(self) -> None:
        _remove(self._path)
        os.close(self._fd)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


async def _gid_of(group: str | None) -> int | None:
    """The number of a group, which a name service elsewhere may have to be asked for."""
    if group is None:
        return None
    try:
        return (await read_in_thread(partial(grp.getgrnam, group), f"--rpc-group: look up {group}")).gr_gid
    except KeyError:
        raise InvalidArgument(f"--rpc-group: there is no group {group!r}") from None


def _bind(path: str, gid: int | None) -> socket.socket:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            _remove(path)  # stale: its lock was free
        else:
            raise InvalidArgument(f"{path} exists and is not a socket")
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        # Nobody can connect before listen(), so the mode is in force from the first connection on.
        Path(path).chmod(0o600)
        if gid is not None:
            os.chown(path, -1, gid)
            Path(path).chmod(0o660)
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConnectError(f"RPC socket {path}: {error.strerror or error}", error.errno) from error
    return listener


def _peer(connected: TransportSocket) -> str:
    who = credentials(connected)
    return f"pid={who.pid} uid={who.uid} gid={who.gid}"


def _hung_up(connected: TransportSocket) -> bool:
    poll = select.poll()
    try:
        poll.register(connected.fileno(), 0)
    except (OSError, ValueError):
        return True
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
