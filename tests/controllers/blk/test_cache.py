"""A virtio-blk device that offers FLUSH may have a volatile cache, whatever it says of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.rig import Rig, in_loop
from virtiod.bdev.probe import Flag, Probe
from virtiod.controllers import AttachRequest
from virtiod.system import System
from virtiod.target.backend import Backend
from virtiod.target.blk.device import BlkDevice, DiskSpec
from virtiod.virtio.features import BlkFeature

WRITEBACK = 32  # its offset in the configuration (virtio 1.2 §5.2.4)


class WriteThrough(BlkDevice):
    """It says that it has no volatile cache, as qemu-storage-daemon does, which has one."""

    def config(self) -> bytes:
        plain = super().config()
        return plain[:WRITEBACK] + bytes(1) + plain[WRITEBACK + 1 :]


@in_loop
async def test_a_device_that_says_writeback_0_is_flushed_all_the_same(run_dir: Path) -> None:
    engine = System([-1], memory_mib=32)
    engine.start()
    disk = WriteThrough(DiskSpec(size=1 << 20, memory=True), engine.pollers)
    disk.features |= 1 << BlkFeature.CONFIG_WCE
    backend = Backend(str(run_dir / "v.sock"), disk)
    await backend.start()
    try:
        await engine.controllers.attach(AttachRequest("V0", "user", str(run_dir / "v.sock"), "blk"))
        bdev = engine.bdevs.get("V0")
        probe = Probe(engine.memory, engine.pollers[0], bdev.channels)
        assert bdev.write_cache
        before = disk.requests()
        assert await probe.submit("write", 0, 512, Flag.FUA) == 0
        assert disk.requests() - before == 2
    finally:
        await engine.controllers.detach("V0")
        await backend.stop()
        await engine.stop()
        disk.close()


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
