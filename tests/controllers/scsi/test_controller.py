"""A virtio-scsi controller: discovery, I/O, events, faults; against a device in Python that can do all of it."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import FakeHost, stack
from tests.support.fake_scsi_units import FakeUnit
from tests.support.rig import in_loop
from tests.support.uses import somebody
from virtiod.bdev.probe import Flag
from virtiod.controllers.description import VirtioDescription
from virtiod.core.errors import DeviceError
from virtiod.load.workload import Workload
from virtiod.scsi.spec import Asc, Opcode
from virtiod.target.scsi.device import CAPACITY_CHANGED
from virtiod.virtio.scsi import EventFlag, EventType, ResetReason

# What simple units do not know.
UNKNOWN: set[int] = {
    Opcode.REPORT_LUNS,
    Opcode.SERVICE_ACTION_IN_16,
    Opcode.MODE_SENSE_10,
    Opcode.MODE_SENSE_6,
    Opcode.SYNCHRONIZE_CACHE_10,
    Opcode.WRITE_SAME_16,
    Opcode.UNMAP,
}


@in_loop
async def test_all_luns_of_all_targets_become_bdevs(run_dir: Path) -> None:
    places = [(0, 0), (2, 0), (2, 1), (2, 7), (2, 300), (5, 0)]
    units = {place: FakeUnit(size=(i + 1) << 20, serial=f"S{i}", naa=0x5000 + i) for i, place in enumerate(places)}
    async with stack(run_dir, units) as s:
        names = await s.attach()
        assert names == ["S0t0", "S0t2", "S0t2l1", "S0t2l7", "S0t2l300", "S0t5"]
        for name, unit in zip(names, units.values(), strict=True):
            bdev = s.engine.bdevs.get(name)
            assert (bdev.size, bdev.info.serial, bdev.product_name) == (unit.size, unit.serial, "Virtio SCSI Disk")
            assert bdev.aliases == [f"naa.{unit.naa:016x}"]
            assert s.engine.bdevs.get(bdev.uuid) is bdev
        controller = s.engine.controllers.list()[0]
        described = VirtioDescription(vq_count=3, vq_size=512, type="user", socket=str(s.path))
        assert controller.description() == described


@in_loop
async def test_what_is_written_is_read_again(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 3): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach()
        for name in ("S0t0", "S0t1l3"):
            probe = s.probe(name)
            probe.buffer[:8192] = bytes(range(256)) * 32
            assert await s.do(name, "write", 4096, 8192) == 0
            probe.buffer[:8192] = bytes(8192)
            assert await s.do(name, "read", 4096, 8192) == 0
            assert bytes(probe.buffer[:8192]) == bytes(range(256)) * 32
            assert await s.do(name, "flush", 0, 0) == 0
            assert await s.do(name, "unmap", 4096, 4096) == 0
            assert await s.do(name, "write_zeroes", 8192, 4096) == 0
            assert await s.do(name, "read", 4096, 8192) == 0
            assert bytes(probe.buffer[:8192]) == bytes(8192)


@in_loop
async def test_large_and_far_requests(run_dir: Path) -> None:
    unit = FakeUnit(size=4 << 40, naa=0x7)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        probe = s.probe("S0t0")
        line = 2 << 40
        probe.buffer[:65536] = bytes(range(256)) * 256
        unit.log.clear()
        assert await s.do("S0t0", "write", line - 32768, 65536) == 0
        assert await s.do("S0t0", "write", line - 65536, 4096) == 0
        assert await s.do("S0t0", "read", line - 32768, 65536, at=65536) == 0
        assert [c[0] for c in unit.log] == [Opcode.WRITE_16, Opcode.WRITE_10, Opcode.READ_16]
        assert bytes(probe.buffer[65536:131072]) == bytes(probe.buffer[:65536])
        assert await s.do("S0t0", "flush", 0, 0) == 0
        assert unit.log[-1][0] == Opcode.SYNCHRONIZE_CACHE_16


@in_loop
async def test_requests_respect_the_limits_of_the_unit(run_dir: Path) -> None:
    unit = FakeUnit(max_transfer=16, max_unmap=8, max_write_same=4)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        unit.log.clear()
        for op in ("write", "unmap", "write_zeroes"):
            assert await s.do("S0t0", op, 0, 16384) == 0
        counts = {
            op: [int.from_bytes(c[7:9] if op == Opcode.WRITE_10 else c[10:14], "big") for c in unit.log if c[0] == op]
            for op in (Opcode.WRITE_10, Opcode.WRITE_SAME_16)
        }
        assert counts == {Opcode.WRITE_10: [16, 16], Opcode.WRITE_SAME_16: [4] * 8}
        assert sum(c[0] == Opcode.UNMAP for c in unit.log) == 4


@pytest.mark.parametrize(
    ("limit", "descriptors", "commands"),
    [
        (0xFFFFFFFF, 1, [1, 1, 1]),  # 2^33 blocks: one descriptor holds 2^32 - 1
        (0xFFFFFFFF, 2, [2, 1]),
        (0xFFFFFFFF, 0xFFFFFFFF, [3]),
        (1 << 31, 16, [1] * 4),  # of a command, however many descriptors it has
    ],
)
@in_loop
async def test_an_unmap_is_one_command_where_the_limits_of_ranges_and_descriptors_allow_it(
    run_dir: Path, limit: int, descriptors: int, commands: list[int]
) -> None:
    unit = FakeUnit(size=1 << 42, max_unmap=limit, max_descriptors=descriptors)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        assert await s.do("S0t0", "write", (1 << 42) - 512) == 0
        assert await s.do("S0t0", "unmap", 0, 1 << 42) == 0
        assert [len(ranges) for ranges in unit.unmaps] == commands
        end = 0
        for lba, blocks in (r for ranges in unit.unmaps for r in ranges):
            assert lba == end
            end += blocks
        assert end == 1 << 33
        assert not unit.data


@pytest.mark.parametrize(("fua", "cache"), [(True, True), (False, True), (True, False)])
@in_loop
async def test_fua_is_the_bit_where_there_is_one_and_else_a_flush(run_dir: Path, fua: bool, cache: bool) -> None:
    unit = FakeUnit(fua=fua, write_cache=cache)
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        unit.log.clear()
        assert await s.do("S0t0", "write", 0, 512, flags=Flag.FUA) == 0
        assert s.engine.bdevs.get("S0t0").write_cache == cache
        flushes = [c for c in unit.log if c[0] == Opcode.SYNCHRONIZE_CACHE_10]
        assert len(flushes) == int(cache and not fua)
        assert bool(unit.log[0][1] & 8) == fua
        unit.log.clear()
        assert await s.do("S0t0", "write_zeroes", 0, 512, flags=Flag.FUA | Flag.NO_HOLE) == 0
        assert [c[:2] for c in unit.log] == [b"\x93\x00", *([b"\x35\x00"] if cache else [])]


@in_loop
async def test_a_simple_disk_is_used_as_far_as_it_goes(run_dir: Path) -> None:
    unit = FakeUnit(unknown=UNKNOWN, unmap=False, write_same=False, write_protect=True)
    async with stack(run_dir, {(0, 0): unit, (0, 1): FakeUnit()}) as s:
        assert await s.attach() == ["S0t0"]
        bdev = s.engine.bdevs.get("S0t0")
        assert not bdev.write_cache
        assert "unmap" not in bdev.io_types
        s.probe("S0t0").buffer[:512] = b"z" * 512
        assert await s.do("S0t0", "write") == 0
        assert await s.do("S0t0", "write_zeroes") == 0
        assert unit.data[0] == bytes(512)


@in_loop
async def test_units_are_started_write_protected_or_no_disks(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(needs_start=True), (1, 0): FakeUnit(write_protect=True), (2, 0): FakeUnit(type=5)}
    async with stack(run_dir, units) as s:
        assert await s.attach() == ["S0t0", "S0t1"]
        assert s.engine.bdevs.get("S0t1").read_only
        assert await s.do("S0t1", "write") == -errno.EOPNOTSUPP
        assert await s.do("S0t0", "write") == 0


@in_loop
async def test_units_come_grow_and_go_while_others_work(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach()
        ended = asyncio.Event()

        async def work() -> None:
            while not ended.is_set():
                assert await s.do("S0t0", "read") == 0

        load = asyncio.create_task(work())
        units[3, 9] = FakeUnit(serial="new")
        s.host.send_event(EventType.TRANSPORT_RESET, 3, 9, ResetReason.RESCAN)
        await s.until(lambda: ("bdev_register", "S0t3l9") in s.events)
        assert await s.do("S0t3l9", "write") == 0
        units[1, 0].size *= 2
        s.host.send_event(EventType.PARAM_CHANGE, 1, 0, CAPACITY_CHANGED)
        await s.until(lambda: ("bdev_resize", "S0t1") in s.events)
        assert s.engine.bdevs.get("S0t1").size == 2 << 20
        assert await s.do("S0t1", "read", (2 << 20) - 512) == 0
        del units[3, 9]
        s.host.send_event(EventType.TRANSPORT_RESET, 3, 9, ResetReason.REMOVED)
        await s.until(lambda: ("bdev_unregister", "S0t3l9") in s.events)
        units[3, 9] = FakeUnit(serial="again")
        s.host.send_event(EventFlag.EVENTS_MISSED, -1)
        await s.until(lambda: s.events.count(("bdev_register", "S0t3l9")) == 2)
        ended.set()
        await load


@in_loop
async def test_a_unit_that_goes_ends_its_users_and_fails_its_io(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach()
        left = asyncio.Event()

        async def leave() -> None:
            left.set()

        handle = s.engine.bdevs.get("S0t1").open(somebody, on_remove=leave)
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 1 and c.cdb[0] == Opcode.READ_10 else None
        held = [asyncio.ensure_future(s.do("S0t1", "read", 512 * i)) for i in range(8)]
        await s.until(lambda: len(s.host.held) == 8)
        s.host.hook = lambda _: None
        del units[1, 0]
        s.host.release()
        assert await asyncio.gather(*held) == [-errno.ENODEV] * 8
        await s.until(lambda: ("bdev_unregister", "S0t1") in s.events)
        assert left.is_set()
        handle.close()
        assert await s.do("S0t1", "read") == -errno.ENODEV
        assert await s.do("S0t0", "read") == 0


@in_loop
async def test_a_unit_attention_tells_of_a_new_size(run_dir: Path) -> None:
    unit = FakeUnit()
    async with stack(run_dir, {(0, 0): unit}) as s:
        await s.attach()
        unit.size *= 3
        unit.attentions = [Asc.CAPACITY_CHANGED]
        assert await s.do("S0t0", "read") == 0
        await s.until(lambda: ("bdev_resize", "S0t0") in s.events)
        assert s.engine.bdevs.get("S0t0").size == 3 << 20


@in_loop
async def test_a_reset_is_a_task_management_function(run_dir: Path) -> None:
    async with stack(run_dir, {(4, 2): FakeUnit()}) as s:
        await s.attach()
        reset = s.engine.bdevs.get("S0t4l2").reset
        assert reset is not None
        await reset()
        assert s.host.tmfs == [(5, 4, 2, 0)]
        s.host.tmf = lambda *_: 11
        with pytest.raises(DeviceError, match="target 4 LUN 2: LOGICAL UNIT RESET: function rejected"):
            await reset()


@in_loop
async def test_more_pollers_than_queues(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit()}
    async with stack(run_dir, units, pollers=3, host=FakeHost(units, 4)) as s:
        await s.attach()
        report = await s.engine.load.run(["S0t0"], Workload("verify", total_bytes=1 << 20, queue_depth=8))
        assert all(r.status == "finished" and not r.io_failed for r in report.results)
        assert s.engine.controllers.list()[0].vq_count == 4


@in_loop
async def test_a_controller_without_any_unit_and_one_that_fills_later(run_dir: Path) -> None:
    units: dict[tuple[int, int], FakeUnit] = {}
    async with stack(run_dir, units) as s:
        assert await s.attach(vq_count=1, vq_size=16) == []
        units[0, 0] = FakeUnit()
        s.host.send_event(EventType.TRANSPORT_RESET, 0, 0, ResetReason.RESCAN)
        await s.until(lambda: ("bdev_register", "S0t0") in s.events)
        await s.engine.controllers.detach("S0")
        assert s.events[-1] == ("bdev_unregister", "S0t0")
