"""What the log says of I/O that failed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.bdev import failures
from virtiod.bdev.probe import Probe
from virtiod.controllers.request import AttachRequest
from virtiod.system import System
from virtiod.target.blk.device import DiskSpec, Fault
from virtiod.target.target import Target

MIB = 1 << 20


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.name == failures.__name__]


async def all_of(probe: Probe, op: str, offset: int, count: int) -> list[int]:
    return await asyncio.gather(*(probe.submit(op, offset, 512) for _ in range(count)))


@in_loop
async def test_failed_io_is_told_by_cause_and_number_once_for_all_that_failed_since(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(failures, "PERIOD_S", 3600.0)
    path = str(run_dir / "d.sock")
    target = Target({path: DiskSpec(MIB, fault=Fault("error", after=2))})
    system = System([-1], memory_mib=16)
    await target.start()
    system.start()
    try:
        await system.controllers.attach(AttachRequest("D0", "user", path, "blk"))
        probe = Probe(system.memory, system.pollers[0], system.bdevs.get("D0").channels)
        assert await probe.submit("read", 0, 512) == 0
        system.failures.look()
        assert told(caplog) == []
        assert await all_of(probe, "read", 0, 3) == [-5] * 3
        assert await all_of(probe, "write", 0, 1) == [-5]
        assert await all_of(probe, "write", 2 * MIB, 1) == [-28]
        assert await all_of(probe, "read", 1, 2) == [-22] * 2
        system.failures.look()
        assert told(caplog) == [
            (logging.ERROR, "4 I/Os of bdev D0 failed: EIO"),
            (logging.ERROR, "1 I/O of bdev D0 failed: ENOSPC"),
            (logging.WARNING, "2 I/Os of bdev D0 failed: EINVAL"),
        ]
        caplog.clear()
        system.failures.look()
        assert told(caplog) == []
        assert await all_of(probe, "read", 0, 1) == [-5]
    finally:
        await system.stop()
        await target.stop()
    assert told(caplog) == [(logging.ERROR, "1 I/O of bdev D0 failed: EIO")]  # what was not told before it ended


@in_loop
async def test_it_is_looked_for_by_itself(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(failures, "PERIOD_S", 0.01)
    system = System([-1], memory_mib=16)
    system.start()
    try:
        bdev = system.nulls.create("N0", 2048)
        probe = Probe(system.memory, system.pollers[0], bdev.channels)
        assert await probe.submit("read", 4 * MIB, 512) == -28
        await until(lambda: told(caplog) == [(logging.ERROR, "1 I/O of bdev N0 failed: ENOSPC")])
    finally:
        await system.stop()


@in_loop
async def test_a_new_size_is_a_warning(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, image = str(run_dir / "d.sock"), run_dir / "disk.img"
    image.write_bytes(bytes(MIB))
    target = Target({path: DiskSpec(path=str(image))})
    system = System([-1], memory_mib=16)
    await target.start()
    system.start()
    try:
        await system.controllers.attach(AttachRequest("D0", "user", path, "blk"))
        image.write_bytes(bytes(MIB // 2))
        target.resize(path)
        await until(lambda: system.bdevs.get("D0").size == MIB // 2)
    finally:
        await system.stop()
        await target.stop()
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == ["bdev D0: it has 524288 bytes now, it had 1048576"]
