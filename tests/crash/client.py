"""An NBD client that sends without waiting. Simple replies only.

client = await Client.connect(path, "disk")
reply = await client.send(Command.READ, 0, 4096)
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from virtiod.exports.nbd import wire

FUA, NO_HOLE = 1, 2
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698


class Command(enum.IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Reply(NamedTuple):
    error: int
    data: bytes = b""


class Client(asyncio.Protocol):
    """A connection in transmission. strays: what the server sent that answers nothing, such as a second answer."""

    def __init__(self) -> None:
        self.strays: list[str] = []
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.get_running_loop().create_future()
        self._cookies = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._lengths: dict[int, int] = {}  # of READs, by cookie
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, path: Path, export: str) -> Client:
        """Negotiates. Raises OSError, EOFError."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, str(path))
            await _negotiate(sock, export)
        except BaseException:
            sock.close()
            raise
        _, client = await loop.create_unix_connection(cls, sock=sock)
        return client

    def send(
        self, command: Command, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
    ) -> asyncio.Future[Reply]:
        """One request; the future of its reply. It gets ConnectionError when the server hangs up."""
        cookie = next(self._cookies)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            future.set_exception(ConnectionError("the server hung up"))
            return future
        self._waiting[cookie] = future
        if command is Command.READ:
            self._lengths[cookie] = length
        self._transport.write(_REQUEST.pack(_REQUEST_MAGIC, flags, command, cookie, offset, length) + data)
        return future

    async def close(self) -> None:
        """Hangs up, in order."""
        if self._transport is not None:
            self._transport.write(_REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
            self._transport.close()
        await self._closed

    def abort(self) -> None:
        """Hangs up at once. May be called after close()."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _REPLY.size:
            magic, error, cookie = _REPLY.unpack_from(self._buffer, at)
            if magic != _REPLY_MAGIC:
                self.strays.append(f"{magic:#x} in place of a reply")
                self.abort()
                return
            end = at + _REPLY.size + (0 if error else self._lengths.get(cookie, 0))
            if end > len(self._buffer):
                break
            self._answered(cookie, Reply(error, bytes(self._buffer[at + _REPLY.size : end])))
            at = end
        del self._buffer[:at]

    def _answered(self, cookie: int, reply: Reply) -> None:
        self._lengths.pop(cookie, None)
        future = self._waiting.pop(cookie, None)
        if future is None:
            self.strays.append(f"an answer to request {cookie}, which waits for none")
        elif not future.done():
            future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the server hung up"))
        self._waiting.clear()
        if not self._closed.done():
            self._closed.set_result(None)


async def _negotiate(sock: socket.socket, export: str) -> None:
    """Greeting, flags, GO."""
    loop = asyncio.get_running_loop()

    async def receive(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await loop.sock_recv(sock, size - len(data))
            if not more:
                raise EOFError("the server hung up in the handshake")
            data += more
        return data

    await receive(wire.GREETING.size)
    flags = wire.HandshakeFlag.FIXED_NEWSTYLE | wire.HandshakeFlag.NO_ZEROES
    name = export.encode()
    wanted = wire.LENGTH.pack(len(name)) + name + wire.COUNT.pack(1) + wire.INFO_TYPE.pack(wire.Info.BLOCK_SIZE)
    go = wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.GO, len(wanted)) + wanted
    await loop.sock_sendall(sock, wire.CLIENT_FLAGS.pack(flags) + go)
    kind = wire.Reply.INFO
    while kind == wire.Reply.INFO:
        _, _, kind, length = wire.REPLY.unpack(await receive(wire.REPLY.size))
        await receive(length)
    if kind != wire.Reply.ACK:
        raise ConnectionError(f"export {export!r}: GO was answered with {kind:#x}")
