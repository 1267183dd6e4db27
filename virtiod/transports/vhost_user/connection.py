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

    async def receive(self) -> tuple[Frame, list[int]]:
        """Receives the next message and its file descriptors, now the caller's. LostError at the end of the stream."""
        reader, fds = FrameReader(), list[int]()
        try:
            while True:
                data = await self._read(reader, fds)
                frame = reader.feed(data)
                if frame is not None:
                    # A peer that never stops sending must not block the event loop.
                    await asyncio.sleep(0)
                    return frame, fds
        except BaseException:
            close_fds(fds)
            raise

    async def _read(self, reader: FrameReader, fds: list[int]) -> bytes:
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(reader.need, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
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
                    fds.extend(received)
            if flags & socket.MSG_CTRUNC or len(fds) > MAX_TABLE_REGIONS:
                raise ProtocolError("a message came with too many file descriptors")
            if not data:
                raise LostError("the connection ended within a message" if reader.started else "the connection ended")
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
        for ready in self._waiting:
            if not ready.done():
                ready.set_exception(LostError("the connection was closed"))
