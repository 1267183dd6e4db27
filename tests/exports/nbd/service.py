"""An engine with exports on a Unix socket, and a client that can say what no library would."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import NamedTuple

from tests.support.peers import nbd_uri, run
from tests.support.waiting import PATIENCE_S
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.bdev import IO_TYPES
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.controllers.request import AttachRequest
from virtiod.exports.interface import ExportContext
from virtiod.exports.nbd import wire
from virtiod.exports.nbd.export import NbdExport
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.system import System

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108


class Service:
    """`async with Service(run_dir) as service`: bdevs by null() and attach(), exports by manager.create()."""

    def __init__(
        self, run_dir: Path, pollers: int = 1, buffers: tuple[int, int] | None = None, io_timeout_s: float = 30
    ) -> None:
        self.socket = run_dir / "nbd.sock"
        self.engine = System(
            [-1] * pollers, 64, io_timeout_s=io_timeout_s, peer_grace_s=0.05, buffers=buffers or (2048, 640)
        )
        pairs = list(zip(self.engine.pollers, self.engine.buffers, strict=True))
        self.manager = NbdExports(ExportContext(self.engine.bdevs, pairs))

    async def __aenter__(self) -> Service:
        self.engine.start()
        await self.manager.listen(ListenAddress.parse(f"unix:{self.socket}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop(2)
        await self.engine.controllers.stop()  # which flush what is kept
        for pool in (buffers.stats() for buffers in self.engine.buffers):
            for size in ("small", "large"):
                assert pool[f"{size}_free"] + pool[f"quarantined_{size}"] == pool[size]
        await self.engine.stop()

    async def null(self, num_blocks: int = 2048, io_types: frozenset[str] = IO_TYPES) -> NbdExport:
        """Exports a null bdev as "disk"."""
        channels = BdevChannels(self.engine.pollers)
        connect_null(channels)
        self.engine.bdevs.register(Bdev("Null0", BdevInfo(512, num_blocks, io_types=io_types), channels))
        return await self.manager.create("Null0", "disk")

    async def attach(self, socket: Path, *, read_only: bool = False, description: str = "") -> NbdExport:
        """Attaches a vhost-user-blk target, exports it as "disk"."""
        (name,) = await self.engine.controllers.attach(AttachRequest("Virtio0", "user", str(socket), "blk"))
        return await self.manager.create(name, "disk", read_only=read_only, description=description)

    async def client(self, *command: str | Path, seconds: float = 60) -> str:
        """Runs a client program; `URI` in its arguments becomes the export's."""
        words = [str(word).replace("URI", nbd_uri(self.socket, "disk")) for word in command]
        return await asyncio.to_thread(run, *words, seconds=seconds)

    async def connect(self, structured: bool = False) -> Wire:
        return await Wire.connect(self.socket, structured)


class Reply(NamedTuple):
    cookie: int
    error: int
    data: bytes
    text: str = ""


def request(
    command: int, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = 0, data: bytes = b""
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data


class Wire:
    """A connection in transmission. `reads` are the lengths of READs by cookie, for simple replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, structured: bool) -> None:
        self.reader, self.writer, self.structured = reader, writer, structured
        self.reads: dict[int, int] = {}

    @classmethod
    async def connect(cls, path: Path, structured: bool) -> Wire:
        reader, writer = await asyncio.open_unix_connection(str(path))
        await reader.readexactly(18)
        writer.write(struct.pack(">I", 3))
        if structured:
            writer.write(wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.STRUCTURED_REPLY, 0))
            await reader.readexactly(20)
        data = struct.pack(">I4sHH", 4, b"disk", 1, 3)
        writer.write(wire.OPTION.pack(wire.OPTION_MAGIC, wire.Option.GO, len(data)) + data)
        kind = 0
        while kind != wire.Reply.ACK:
            _, _, kind, length = wire.REPLY.unpack(await reader.readexactly(20))
            assert kind < 0x80000000
            await reader.readexactly(length)
        return cls(reader, writer, structured)

    def send(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = 0, data: bytes = b""
    ) -> None:
        if command == READ:
            self.reads[cookie] = length
        self.writer.write(request(command, offset, length, flags=flags, cookie=cookie, data=data))

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            (magic,) = struct.unpack(">I", await self.reader.readexactly(4))
            if magic == 0x67446698:
                error, cookie = struct.unpack(">IQ", await self.reader.readexactly(12))
                length = self.reads.pop(cookie, 0)
                return Reply(cookie, error, b"" if error else await self.reader.readexactly(length))
            assert (magic, self.structured) == (0x668E33EF, True)
            flags, kind, cookie, length = struct.unpack(">HHQI", await self.reader.readexactly(16))
            payload = await self.reader.readexactly(length)
            assert flags == 1
            if kind == 1:
                return Reply(cookie, 0, payload[8:])
            assert kind == 0x8001
            error, size = struct.unpack_from(">IH", payload)
            assert size == length - 6
            return Reply(cookie, error, b"", payload[6:].decode())

    async def ask(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = 0, data: bytes = b""
    ) -> Reply:
        self.send(command, offset, length, flags=flags, cookie=cookie, data=data)
        return await self.reply()

    async def closed(self) -> bool:
        """Whether the server closes it, without another byte."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await self.writer.wait_closed()


def serve(coroutine: Coroutine[None, None, None]) -> None:
    """asyncio.run with a deadline."""
    asyncio.run(asyncio.wait_for(coroutine, 2 * PATIENCE_S))
