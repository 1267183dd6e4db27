"""The initiator against the embedded SCSI target, which is compiled and runs in threads of its own."""

from __future__ import annotations

import asyncio
import errno
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.rig import in_loop
from tests.support.waiting import LOAD_S, soon, until
from virtiod.bdev.probe import Probe
from virtiod.controllers import AttachRequest
from virtiod.core.memory import MIB
from virtiod.load.workload import Workload
from virtiod.scsi.spec import Asc, Opcode, SenseKey, Status
from virtiod.system import System
from virtiod.target.scsi.device import HostSpec, ScsiDevice
from virtiod.target.scsi.luns import LunFault, LunSpec
from virtiod.target.target import Target
from virtiod.virtio.scsi import Response

FOUR = {0: {0: LunSpec(8 * MIB, memory=True)}, 3: {n: LunSpec((n % 8 + 1) * MIB, memory=True) for n in (0, 1, 7, 300)}}
FOUR[9] = {0: LunSpec(4 * MIB, memory=True, block_size=4096)}
NAMES = ["S0t0", "S0t3", "S0t3l1", "S0t3l7", "S0t3l300", "S0t9"]


class Served:
    def __init__(self, engine: System, target: Target, path: str) -> None:
        self.engine = engine
        self.target = target
        self.path = path
        self.events: list[tuple[str, str]] = []
        engine.bdevs.on_event(lambda kind, name: self.events.append((kind, name)))

    @property
    def host(self) -> ScsiDevice:
        return self.target.hosts[self.path]

    async def attach(self, name: str = "S0") -> list[str]:
        request = AttachRequest(name, "user", self.path, "scsi")
        return await self.engine.controllers.attach(request)

    async def verify(self, *names: str, total: int = MIB, size: int = 4096, depth: int = 16) -> None:
        report = await self.engine.load.run(list(names), Workload("verify", size, depth, total_bytes=total))
        for result in report.results:
            assert (result.io_failed, result.io_mismatched, result.status) == (0, 0, "finished")

    async def until(self, event: str, name: str) -> None:
        await until(lambda: (event, name) in self.events)


@asynccontextmanager
async def serving(run_dir: Path, spec: HostSpec, io_timeout_s: float = 30.0) -> AsyncIterator[Served]:
    path = str(run_dir / "s")
    target = Target({path: spec})
    await target.start()
    engine = System([-1], memory_mib=160, io_timeout_s=io_timeout_s)
    engine.start()
    try:
        yield Served(engine, target, path)
    finally:
        await engine.stop()
        await target.stop()


@pytest.mark.parametrize("config", [True, False])
@in_loop
async def test_three_targets_one_with_four_luns(run_dir: Path, config: bool) -> None:
    async with serving(run_dir, HostSpec(FOUR, queues=2, config=config)) as s:
        assert await s.attach() == NAMES
        for name in NAMES:
            bdev = s.engine.bdevs.get(name)
            target, _, lun = name[3:].partition("l")
            unit = FOUR[int(target)][int(lun or 0)]
            assert (bdev.size, bdev.block_size, bdev.write_cache) == (unit.size, unit.block_size, True)
            assert bdev.info.serial == f"virtiod-{target}-{lun or 0}"
        await s.verify(*NAMES)
        await s.verify("S0t0", total=4 * MIB, size=MIB, depth=4)


@in_loop
async def test_a_scan_of_256_targets_is_quick_and_a_silent_one_holds_up_nobody_else(run_dir: Path) -> None:
    spec = HostSpec({3: {0: LunSpec(MIB)}, 250: {0: LunSpec(MIB)}, 7: {0: LunSpec(MIB)}})
    async with serving(run_dir, spec) as s:
        scan = Stopwatch(threads())
        assert await s.attach() == ["S0t3", "S0t7", "S0t250"]
        assert scan.own_s() < 3
        await s.engine.controllers.detach("S0")
        s.host.silence(7)
        assert await s.attach() == ["S0t3", "S0t250"]


@in_loop
async def test_large_requests_and_those_across_2_tib(run_dir: Path) -> None:
    with (run_dir / "sparse").open("wb") as file:
        file.truncate(4 << 40)
    async with serving(run_dir, HostSpec({0: {0: LunSpec(path=str(run_dir / "sparse"))}})) as s:
        await s.attach()
        bdev = s.engine.bdevs.get("S0t0")
        probe = Probe(s.engine.memory, s.engine.pollers[0], bdev.channels, 64 * MIB)
        size = 100_000 * 512
        for at in ((2 << 40) - 25_000 * 512, 512):
            pattern = at.to_bytes(8, "little") * (size // 8)
            probe.buffer[:size] = pattern
            assert await probe.submit("write", at, size) == 0
            with (run_dir / "sparse").open("rb") as file:
                file.seek(at)
                assert file.read(size) == pattern
            probe.buffer[:size] = bytes(size)
            assert await probe.submit("read", at, size) == 0
            assert bytes(probe.buffer[:size]) == pattern
        assert await probe.submit("flush", 0, 0) == 0


@in_loop
async def test_a_whole_sparse_disk_is_unmapped_by_one_command(run_dir: Path) -> None:
    path = run_dir / "sparse"
    with path.open("wb") as file:
        file.truncate(4 << 40)
    spec = HostSpec({0: {0: LunSpec(path=str(path), max_unmap=0xFFFFFFFF)}})
    async with serving(run_dir, spec) as s:
        await s.attach()
        probe = Probe(s.engine.memory, s.engine.pollers[0], s.engine.bdevs.get("S0t0").channels)
        places = (0, 2 << 40, (4 << 40) - MIB)
        probe.buffer[:] = b"\x5a" * MIB
        assert [await probe.submit("write", at, MIB) for at in places] == [0, 0, 0]
        assert path.stat().st_blocks >= 3 * MIB // 512
        before = s.host.requests()
        assert await probe.submit("unmap", 0, 4 << 40) == 0
        assert s.host.requests() == before + 1
        assert path.stat().st_blocks < MIB // 512  # the file system may have kept a block of its own
        for at in places:
            assert await probe.submit("read", at, MIB) == 0
            assert bytes(probe.buffer) == bytes(MIB)


@pytest.mark.programs
@in_loop
async def test_virtiod_perf_loads_the_disks_of_a_scsi_target(run_dir: Path) -> None:
    async with serving(run_dir, HostSpec({0: {0: LunSpec(MIB), 1: LunSpec(MIB)}})) as s:
        words = (sys.executable, "-m", "virtiod.cli", "perf", f"scsi:{s.path}", "--total-bytes", "64K", "--json")
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        out, _ = await soon(process.communicate())
        report = json.loads(out)
        assert [(r["job"], r["ios"], r["io_failed"]) for r in report["results"]] == [
            ("VirtioScsi0t0", 16, 0),
            ("VirtioScsi0t0l1", 16, 0),
        ]


@in_loop
async def test_units_come_grow_and_go_under_load(run_dir: Path) -> None:
    async with serving(run_dir, HostSpec({0: {0: LunSpec(8 * MIB, memory=True)}})) as s:
        await s.attach()
        load = asyncio.ensure_future(s.engine.load.run(["S0t0"], Workload("randrw", time_s=LOAD_S)))
        await s.host.hot_add(2, 5, LunSpec(4 * MIB))
        await s.until("bdev_register", "S0t2l5")
        await s.host.resize(2, 5, 6 * MIB)
        await s.until("bdev_resize", "S0t2l5")
        assert s.engine.bdevs.get("S0t2l5").size == 6 * MIB
        going = asyncio.ensure_future(s.engine.load.run(["S0t2l5"], Workload("randread", time_s=LOAD_S)))
        await until(lambda: s.engine.bdevs.get("S0t2l5").stats().ops["read"].completed)
        await s.host.hot_remove(2, 5)
        await s.until("bdev_unregister", "S0t2l5")
        (result,) = (await going).results
        assert result.status == "terminated"
        await s.engine.load.stop()
        (result,) = (await load).results
        assert (result.status, result.io_failed) == ("terminated", 0)


def sense_fault(key: SenseKey, code: Asc, descriptor: bool = False, sense_length: int = 18, times: int = 0) -> LunFault:
    """Spoils READ (10)."""
    return LunFault(
        "sense",
        opcode=Opcode.READ_10,
        key=key,
        asc=code >> 8,
        ascq=code & 0xFF,
        descriptor=descriptor,
        sense_length=sense_length,
        times=times,
    )


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (sense_fault(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR), errno.EIO),
        (sense_fault(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE, descriptor=True), errno.EIO),
        (sense_fault(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR, sense_length=2), errno.EIO),
        (sense_fault(SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET, times=3), 0),
        (sense_fault(SenseKey.RECOVERED_ERROR, Asc.UNRECOVERED_READ_ERROR), 0),
        (replace(sense_fault(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR, times=3), deferred=True), 0),
        (replace(sense_fault(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR), deferred=True, descriptor=True), errno.EIO),
        (LunFault("status", opcode=Opcode.READ_10, value=Status.BUSY, times=4), 0),
        (LunFault("status", opcode=Opcode.READ_10, value=Status.TASK_SET_FULL, times=4), 0),
        (LunFault("response", opcode=Opcode.READ_10, value=Response.FAILURE), errno.EIO),
        (LunFault("response", opcode=Opcode.READ_10, value=Response.BUSY, times=3), 0),
        (LunFault("silence", opcode=Opcode.READ_10, times=1), errno.ETIMEDOUT),
    ],
)
@in_loop
async def test_faults(run_dir: Path, fault: LunFault, code: int) -> None:
    spec = HostSpec({0: {0: LunSpec(MIB, memory=True)}, 1: {0: LunSpec(MIB, memory=True)}})
    async with serving(run_dir, spec, io_timeout_s=0.5 if fault.kind == "silence" else 30) as s:
        await s.attach()
        s.host.fault(0, 0, fault)
        probe = Probe(s.engine.memory, s.engine.pollers[0], s.engine.bdevs.get("S0t0").channels)
        assert await probe.submit("read", 0, 4096) == -code
        s.host.fault(0, 0, LunFault())
        assert await probe.submit("read", 0, 4096) == 0
        assert s.engine.controllers.list()[0].reconnects == 0


@in_loop
async def test_a_reset_under_load_loses_nothing(run_dir: Path) -> None:
    async with serving(run_dir, HostSpec({0: {0: LunSpec(8 * MIB, memory=True)}})) as s:
        await s.attach()
        load = asyncio.ensure_future(s.verify("S0t0", total=64 * MIB))
        reset = s.engine.bdevs.get("S0t0").reset
        assert reset is not None
        while not load.done():
            await reset()
            await asyncio.sleep(0.02)
        await load
