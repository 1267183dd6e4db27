"""A device that tells of configuration changes, once or without end."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rig import in_loop
from tests.support.vhost_user import FEATURES, ScriptedBackend
from tests.support.waiting import until
from virtiod.controllers.controller import State
from virtiod.controllers.request import AttachRequest
from virtiod.system import System
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.wire import BackendRequest, Request
from virtiod.virtio.features import BlkFeature

CHANGE = wire.pack(BackendRequest.CONFIG_CHANGE_MSG, b"")


def config(sectors: int, seg_max: int = 126) -> bytes:
    """struct virtio_blk_config with one queue."""
    return struct.pack("<QII4xIBBHIBxH24x", sectors, 0, seg_max, 512, 0, 0, 0, 0, 0, 1)


@contextlib.asynccontextmanager
async def attached(run_dir: Path, backend: ScriptedBackend) -> AsyncIterator[System]:
    path = str(run_dir / "c.sock")
    async with backend.at(path):
        system = System([-1], memory_mib=16)
        system.start()
        try:
            await system.controllers.attach(AttachRequest("C0", "user", path, "blk"))
            yield system
        finally:
            await system.stop()


async def flood(backend: ScriptedBackend, seconds: float) -> int:
    """Tells of changes for so long, as fast as the front-end takes them; how many."""
    backend.channel.setblocking(False)
    ends = asyncio.get_running_loop().time() + seconds
    told = 0
    while asyncio.get_running_loop().time() < ends:
        with contextlib.suppress(BlockingIOError):
            backend.channel.send(CHANGE)
            told += 1
        await asyncio.sleep(0)
    return told


@pytest.mark.waits
@in_loop
async def test_changes_that_come_while_the_configuration_is_read_are_one_more_read(run_dir: Path) -> None:
    backend = ScriptedBackend(config=config(2048))
    async with attached(run_dir, backend) as system:
        bdev = system.bdevs.get("C0")
        before, asked = len(asyncio.all_tasks()), backend.requests.count(Request.GET_CONFIG)
        backend.script[Request.GET_CONFIG] = lambda _: None  # it takes its time
        assert await flood(backend, 1.0) > 100
        assert len(asyncio.all_tasks()) <= before + 1
        assert backend.requests.count(Request.GET_CONFIG) == asked + 1
        backend.config = config(4096)
        del backend.script[Request.GET_CONFIG]
        backend.speak(wire.pack(Request.GET_CONFIG, wire.pack_config(0, config(3072)), wire.FLAG_REPLY))
        await until(lambda: bdev.num_blocks == 4096)  # what was told of during the first read is read after it
        await until(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.waits
@in_loop
async def test_a_flood_of_changes_reads_the_configuration_a_bounded_number_of_times_a_second(run_dir: Path) -> None:
    backend = ScriptedBackend(config=config(2048))
    async with attached(run_dir, backend):
        asked = backend.requests.count(Request.GET_CONFIG)
        await flood(backend, 1.0)
        assert 1 <= backend.requests.count(Request.GET_CONFIG) - asked <= 60


@in_loop
async def test_a_detach_during_a_flood_leaves_no_task(run_dir: Path) -> None:
    backend = ScriptedBackend(config=config(2048))
    async with attached(run_dir, backend) as system:
        flooding = asyncio.ensure_future(flood(backend, 0.3))
        await asyncio.sleep(0.1)
        await system.controllers.detach("C0")
        with contextlib.suppress(OSError, AssertionError):  # its channel has gone
            await flooding
        assert not [task for task in asyncio.all_tasks() if "reconfigure" in task.get_name()]


@in_loop
async def test_a_device_whose_limits_fell_while_it_ran_does_not_come_back_with_them(run_dir: Path) -> None:
    backend = ScriptedBackend(
        features=FEATURES | wire.F_PROTOCOL_FEATURES | 1 << BlkFeature.SEG_MAX, config=config(2048)
    )
    async with attached(run_dir, backend) as system:
        controller = system.controllers.get("C0")
        backend.config = config(4096, seg_max=2)
        backend.channel.send(CHANGE)
        await until(lambda: system.bdevs.get("C0").num_blocks == 4096)  # it was read
        backend.hang_up()
        await until(lambda: "max_segments 2, it was 126" in controller.last_error)
        assert controller.state is State.RECONNECTING  # I/O was split by the limits of before
        backend.config = config(4096)
        await until(lambda: controller.state is State.UP)
