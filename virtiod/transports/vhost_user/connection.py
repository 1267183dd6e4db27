"""A Unix socket that carries vhost-user messages and their file descriptors, on the event loop."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from virtiod.core.errors import LostError, ProtocolError
from virtiod.transports.vhost_user.wire import MAX_TABLE_REGIONS, Frame, FrameReader

_ANCILLARY = socket.CMSG_SPACE(MAX_TABLE_REGIONS * array.array("i").itemsize)


def close_fds(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Channel:
    """Owns a connected, non-blocking socket. One task receives; senders take turns (the caller's rule)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()  # of a message that has begun to come, with its file descriptors
        self._fds: list[int] = []
        self._waiting: set[asyncio.Future[None]] = set()

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends a message. The file descriptors stay the caller's. LostError when the peer is gone."""
        rest = memoryview(data)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while rest:
            try:
                sent = self._sock.sendmsg([rest], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._ready(loop.add_writer, loop.remove_writer)
            except OSError as error:
                raise LostError(f"send: {error.strerror}") from error
            else:
                rest, ancillary = rest[sent:], []

    def send_last(self, data: bytes) -> bool:
        """Sends messages if the socket takes them at once, and then the end of the stream; whether it did."""
        try:
            if data and self._sock.send(data, socket.MSG_NOSIGNAL) != len(data):
                return False
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    async def receive(self) -> tuple[Frame, list[int]]:
        """Receives the next message and its file descriptors, now the caller's. LostError at the end of the stream.

        One that was cancelled has lost nothing: the next one goes on. After an error there is nothing but close().
        """
        await asyncio.sleep(0)  # a peer that never stops sending must not block the event loop
        while True:
            frame = self._reader.feed(await self._read())
            if frame is not None:
                fds, self._fds, self._reader = self._fds, [], FrameReader()
                return frame, fds

    async def _read(self) -> bytes:
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(self._reader.need, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._ready(loop.add_reader, loop.remove_reader)
                continue
            except OSError as error:
                raise LostError(f"receive: {error.strerror}") from error
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    self._fds.extend(received)
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_TABLE_REGIONS:
                raise ProtocolError("a message came with too many file descriptors")
            if not data:
                within = " within a message" if self._reader.started else ""
                raise LostError(f"the connection ended{within}")
            return data

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        """Waits until the socket is ready, or closed by close()."""
        if self._sock.fileno() < 0:
            raise LostError("the connection was closed")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fd = self._sock.fileno()
        add(fd, _wake, ready)
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            if self._sock.fileno() == fd:
                remove(fd)

    def close(self) -> None:
        """Closes the socket; coroutines that wait on it get LostError. Idempotent."""
        fd = self._sock.fileno()
        if fd < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(fd)
        loop.remove_writer(fd)
        self._sock.close()
        close_fds(self._fds)
        self._fds.clear()
        for ready in self._waiting:
            if not ready.done():
                ready.set_exception(LostError("the connection was closed"))
