"""A JSON-RPC peer for tests that says exactly what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.daemon import FakeDaemon, running
from tests.support.waiting import PATIENCE_S


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: object) -> None:
        self.writer.write(data if isinstance(data, bytes) else json.dumps(data).encode())
        await self.writer.drain()

    async def receive(self) -> Any:
        """The next response; None when the server ended the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                line = await self.reader.readline()
            except ConnectionResetError:
                return None
        return json.loads(line) if line else None

    async def ask(self, method: str, params: object = None, request_id: object = 1) -> Any:
        """The response to one request."""
        request = {"jsonrpc": "2.0", "method": method, "id": request_id}
        await self.send(request if params is None else {**request, "params": params})
        return await self.receive()

    async def result(self, method: str, **params: object) -> Any:
        response = await self.ask(method, params)
        assert "result" in response, response
        return response["result"]

    async def error(self, method: str, **params: object) -> tuple[int, str]:
        """Code and message."""
        response = await self.ask(method, params)
        assert "error" in response, response
        return response["error"]["code"], response["error"]["message"]


@contextlib.asynccontextmanager
async def connected(run_dir: Path) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(str(run_dir / "rpc"), limit=64 << 20)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


Conversation = Callable[[Peer, FakeDaemon], Awaitable[None]]


def talk(run_dir: Path, conversation: Conversation, **options: Any) -> None:
    async def run() -> None:
        async with running(run_dir, **options) as daemon, connected(run_dir) as peer:
            await conversation(peer, daemon)

    asyncio.run(run())


ATTACH = {"name": "B0", "trtype": "user", "traddr": "/x.sock", "dev_type": "blk"}


async def attach(peer: Peer, name: str = "B0", **more: Any) -> str:
    await peer.result(
        "bdev_virtio_attach_controller", name=name, trtype="user", traddr="/x.sock", dev_type="blk", **more
    )
    return name
