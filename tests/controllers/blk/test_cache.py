"""A virtio-blk device whose cache is switched at run time (CONFIG_WCE): FUA writes follow the mode as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.rig import Rig, in_loop
from tests.support.waiting import until
from virtiod.bdev.probe import Flag, Probe
from virtiod.controllers import AttachRequest
from virtiod.system import System
from virtiod.target.backend import Backend
from virtiod.target.blk.device import BlkDevice, DiskSpec
from virtiod.virtio.features import BlkFeature

WRITEBACK = 32  # its offset in the configuration (virtio 1.2 §5.2.4)


class SwitchedDisk(BlkDevice):
    """It says in its configuration whether it has a volatile cache."""

    writeback = False

    def config(self) -> bytes:
        plain = super().config()
        return plain[:WRITEBACK] + bytes([self.writeback]) + plain[WRITEBACK + 1 :]


class Switched:
    """A controller V0 on such a disk."""

    def __init__(self, engine: System, disk: SwitchedDisk, backend: Backend) -> None:
        self.engine = engine
        self.disk = disk
        self.backend = backend
        self.bdev = engine.bdevs.get("V0")
        self.probe = Probe(engine.memory, engine.pollers[0], self.bdev.channels)

    async def requests_of_a_fua_write(self) -> int:
        before = self.disk.requests()
        assert await self.probe.submit("write", 0, 512, Flag.FUA) == 0
        return self.disk.requests() - before


@asynccontextmanager
async def switched(run_dir: Path) -> AsyncIterator[Switched]:
    engine = System([-1], memory_mib=32)
    engine.start()
    disk = SwitchedDisk(DiskSpec(size=1 << 20, memory=True), engine.pollers)
    disk.features |= 1 << BlkFeature.CONFIG_WCE
    backend = Backend(str(run_dir / "v.sock"), disk)
    await backend.start()
    try:
        await engine.controllers.attach(AttachRequest("V0", "user", str(run_dir / "v.sock"), "blk"))
        yield Switched(engine, disk, backend)
    finally:
        await engine.controllers.detach("V0")
        await backend.stop()
        await engine.stop()
        disk.close()


@in_loop
async def test_a_cache_that_was_switched_on_is_flushed(run_dir: Path) -> None:
    async with switched(run_dir) as s:
        s.disk.writeback = True
        s.backend.config_changed()
        await until(lambda: s.bdev.write_cache)
        assert await s.requests_of_a_fua_write() == 2


@in_loop
async def test_a_device_that_came_back_with_a_cache_is_flushed_from_the_first_write_on(run_dir: Path) -> None:
    async with switched(run_dir) as s:
        controller = s.engine.controllers.get("V0")
        s.disk.writeback = True
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        await until(lambda: controller.state == "reconnecting")
        write = asyncio.ensure_future(s.probe.submit("write", 0, 512, Flag.FUA))
        assert await write == 0
        assert s.disk.requests() >= 3  # GET_ID, the write, its flush


@in_loop
async def test_a_fua_write_in_flight_while_the_cache_is_in_doubt_is_flushed() -> None:
    async with Rig(write_cache=False) as rig:
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.turn(2)
        rig.channels.doubt_cache()
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [1, 4]
        rig.channels.settle_cache(False, rig.channels.cache_doubts())
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [1, 4, 1]


@in_loop
async def test_an_answer_from_before_a_doubt_leaves_the_cache_in_doubt() -> None:
    async with Rig(write_cache=False) as rig:
        before = rig.channels.cache_doubts()
        rig.channels.doubt_cache()
        rig.channels.settle_cache(False, before)
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [1, 4]


@in_loop
async def test_a_device_without_flush_is_sent_none_whatever_is_in_doubt() -> None:
    async with Rig(write_cache=False, native=frozenset({"read", "write"})) as rig:
        rig.channels.doubt_cache()
        done = [rig.submit("write", 0, 512, Flag.FUA), rig.submit("flush", 0, 0)]
        rig.settle()
        assert [d.result() for d in done] == [0, 0]
        assert [r.type for r in rig.device.requests] == [1]
