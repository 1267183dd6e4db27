"""Attaching to what is no proper device: an error that says so, nothing left behind, nobody else slowed down.

The daemon runs in this process, so that its memory, threads and descriptors can be counted; SPDK's client attaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.process import allowed_cpus, spdk_module
from tests.support.spdk_client import spdk_rpc
from tests.support.vhost_user import FEATURES, Hangup, ScriptedBackend, reply, u64
from tests.support.waiting import LOAD_S, until
from virtiod.controllers import AttachRequest
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.load.workload import Workload
from virtiod.target.blk.device import DiskSpec
from virtiod.target.target import Target
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.wire import Request
from virtiod.virtio.features import BlkFeature

SAMPLE_S = 0.1
BLK = FEATURES | 1 << BlkFeature.BLK_SIZE | wire.F_PROTOCOL_FEATURES

Peer = Callable[[str], AbstractAsyncContextManager[Any]]


def config(capacity: int = 2048, block_size: int = 512, queues: int = 1) -> bytes:
    """A block device's configuration space (virtio 1.2 §5.2.4)."""
    return struct.pack("<QII4xIBBHIBxH", capacity, 0, 0, block_size, 0, 0, 0, 0, 0, queues).ljust(60, b"\0")


def scripted(**settings: Any) -> Peer:
    return lambda path: ScriptedBackend(**{"features": BLK, "config": config(), **settings}).at(path)


def hang_up(_: Any) -> bytes:
    raise Hangup


def talker(greeting: bytes) -> Peer:
    """Accepts, says this, then nothing."""

    @contextlib.asynccontextmanager
    async def at(path: str) -> AsyncIterator[None]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    pass
            writer.close()

        async with await asyncio.start_unix_server(talk, path):
            yield

    return at


@contextlib.asynccontextmanager
async def _nothing(_: str) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _file(path: str) -> AsyncIterator[None]:
    os.close(os.open(path, os.O_CREAT))
    yield


PEERS: dict[str, tuple[Peer, str]] = {
    "nothing": (_nothing, "connect to {path}: No such file or directory"),
    "file": (_file, "connect to {path}: Connection refused"),
    "silent": (talker(b""), "{path}: GET_FEATURES: no answer within 5 s"),
    "garbage": (talker(bytes(range(255, 0, -1))), "{path}: message "),
    "closes": (scripted(script={Request.SET_OWNER: hang_up}), "{path}: SET_OWNER"),
    "no VERSION_1": (scripted(features=wire.F_PROTOCOL_FEATURES), "{path}: the device offers no VERSION_1"),
    "capacity 0": (scripted(config=config(capacity=0)), "{path}: the device's configuration is unusable: capacity"),
    "blocks of 768": (scripted(config=config(block_size=768)), "block size 768 is not a power of two"),
    "blocks of 256": (scripted(config=config(block_size=256)), "block size 256 is not a power of two"),
    "blocks of 0": (scripted(config=config(block_size=0)), "block size 0 is not a power of two"),
    "num_queues 0": (scripted(config=config(queues=0)), "the device says it has 0 queues"),
    "GET_QUEUE_NUM 0": (
        scripted(script={Request.GET_QUEUE_NUM: lambda _: u64(Request.GET_QUEUE_NUM, 0)}),
        "{path}: GET_QUEUE_NUM: the device has 0 queues",
    ),
    "no configuration": (
        scripted(script={Request.GET_CONFIG: lambda _: reply(Request.GET_CONFIG, b"")}),
        "{path}: GET_CONFIG: refused",
    ),
    "refuses features": (
        scripted(script={Request.SET_FEATURES: lambda _: u64(Request.SET_FEATURES, 1)}),
        "{path}: SET_FEATURES was refused",
    ),
    "dies over its memory": (scripted(script={Request.ADD_MEM_REG: hang_up}), "{path}: ADD_MEM_REG: "),
    "dies over its ring": (scripted(script={Request.SET_VRING_KICK: hang_up}), "{path}: SET_VRING_KICK: "),
}


@contextlib.asynccontextmanager
async def busy_daemon(run_dir: Path) -> AsyncIterator[Daemon]:
    """A daemon whose controller V0 is under load."""
    target = Target({str(run_dir / "good"): DiskSpec(size=1 << 20, memory=True)})
    options = Options(rpc_socket=str(run_dir / "rpc"), cpus=tuple(allowed_cpus(1)), memory_mib=64)
    daemon = Daemon(options)
    await target.start()
    try:
        await daemon.start()
        await daemon.system.controllers.attach(AttachRequest("V0", "user", str(run_dir / "good"), "blk"))
        load = asyncio.create_task(daemon.system.load.run(["V0"], Workload("randread", queue_depth=8, time_s=LOAD_S)))
        await until(lambda: reads(daemon) > 100)
        yield daemon
    finally:
        await daemon.stop(10)
        await target.stop()
    (result,) = (await load).results
    assert (result.status, result.io_failed) == ("terminated", 0)


def reads(daemon: Daemon) -> int:
    return int(daemon.system.bdevs.get("V0").stats().ops["read"].completed)


async def watch_gaps(daemon: Daemon, gaps: list[float]) -> None:
    """Until cancelled: how long the threads had cores from one look that found V0 to have read more to the next.

    The kernel counts a wait for a core when it ends: while nothing is read, it may still last.
    """
    clock, before = Stopwatch(threads()), reads(daemon)
    while True:
        await asyncio.sleep(SAMPLE_S)
        if (now := reads(daemon)) > before:
            gaps.append(clock.own_s())
            clock, before = Stopwatch(threads()), now


@pytest.mark.parametrize("kind", PEERS)
def test_a_bad_peer_is_an_error_that_names_the_cause(run_dir: Path, kind: str) -> None:
    spdk_module()
    peer, cause = PEERS[kind]
    path = str(run_dir / "bad")

    async def main() -> None:
        async with busy_daemon(run_dir) as daemon, peer(path):
            gaps: list[float] = []
            watching = asyncio.create_task(watch_gaps(daemon, gaps))
            before = resources(daemon)
            attach = ("bdev_virtio_attach_controller", "V1", "-t", "user", "-a", path, "-d", "blk")
            code, message = (await spdk_rpc(run_dir, *attach)).error
            assert (code, cause.format(path=path) in message) == (-32602, True), message
            await until(lambda: resources(daemon) == before)
            assert [controller.name for controller in daemon.system.controllers.list()] == ["V0"]
            assert [bdev.name for bdev in daemon.system.bdevs.list()] == ["V0"]
            known = len(gaps)
            await until(lambda: len(gaps) > known + 1)  # the one of the attach is over
            watching.cancel()
            await asyncio.wait([watching])
            assert max(gaps) < 10 * SAMPLE_S, gaps  # a peer that is waited for costs 5 s

    asyncio.run(main())


def test_the_name_is_free_again(run_dir: Path) -> None:
    async def main() -> None:
        async with busy_daemon(run_dir) as daemon:
            request = AttachRequest("V1", "user", str(run_dir / "late"), "blk")
            with pytest.raises(Exception, match="No such file"):
                await daemon.system.controllers.attach(request)
            target = Target({request.traddr: DiskSpec(size=1 << 20, memory=True)})
            await target.start()
            try:
                assert await daemon.system.controllers.attach(request) == ["V1"]
                await daemon.system.controllers.detach("V1")
            finally:
                await target.stop()

    asyncio.run(main())


def resources(daemon: Daemon) -> tuple[int, int, int]:
    """DMA memory in use, file descriptors, threads."""
    return daemon.system.memory.used, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
