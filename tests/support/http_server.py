"""A real daemon on loopback, with bdevs over nothing, and a client for its HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import sharing
from tests.support.waiting import PATIENCE_S
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.http.app import create_app
from virtiod.http.live.feed import FEED, Feed
from virtiod.http.server import HttpServer
from virtiod.load.workload import Workload

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@dataclass
class Live:
    daemon: Daemon
    port: int
    http: HttpServer

    @property
    def feed(self) -> Feed:
        return self.http.app[FEED]

    def add_null(self, name: str, io_types: tuple[str, ...] = ("read", "write")) -> Bdev:
        channels = BdevChannels(self.daemon.system.pollers)
        connect_null(channels)
        bdev = Bdev(name, BdevInfo(512, 1 << 20, io_types=frozenset(io_types)), channels)
        self.daemon.system.bdevs.register(bdev)
        return bdev

    async def load(self, name: str, rw: str = "randread", ios: int = 100) -> None:
        work = Workload(rw=rw, total_bytes=ios * 4096, queue_depth=4, seed=1)
        await self.daemon.system.load.run([name], work)

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
            session.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text(), dict(response.headers)

    async def scrape(self) -> str:
        status, text, _ = await self.get("/metrics")
        assert status == 200, text
        return text

    async def send(self, data: bytes) -> bytes:
        """What comes back for these very bytes, until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def options(run_dir: Path, **more: Any) -> Options:
    cpus = tuple(sharing.cores(1))
    return Options(**{"rpc_socket": str(run_dir / "rpc"), "cpus": cpus, "http": ("127.0.0.1", 0), **more})


async def get_by_socket(path: Path, target: str, **headers: str) -> tuple[int, str]:
    """Status and text of a page that is served on a Unix socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(f"http://localhost{target}", headers=headers) as response,
    ):
        return response.status, await response.text()


@contextlib.asynccontextmanager
async def live(run_dir: Path, **more: Any) -> AsyncIterator[Live]:
    daemon = Daemon(options(run_dir, **more))
    daemon.rpc.strict = True
    await daemon.start()
    assert daemon.http is not None
    try:
        yield Live(daemon, daemon.http.port, daemon.http)
    finally:
        await daemon.stop(10)


def run_live(run_dir: Path, test: Callable[[Live], Awaitable[None]], **more: Any) -> None:
    """Runs a test on a daemon of its own."""

    async def run() -> None:
        async with live(run_dir, **more) as running:
            await test(running)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def serving(live: Live, connection_s: float) -> Any:
    """A second server for the same daemon, with its own deadlines."""
    server = HttpServer(create_app(live.daemon.system, live.daemon.rpc, live.daemon.health), "127.0.0.1", 0)
    server.connections.request_s = server.connections.response_s = connection_s
    await server.start()
    try:
        yield server, Live(live.daemon, server.port, server)
    finally:
        await server.stop()
        await server.stop()  # may be called again
