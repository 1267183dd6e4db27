"""A device that comes back must be the one that left: what was in flight is not for another disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import FakeHost, Stack, stack
from tests.support.fake_scsi_units import WRITES, FakeUnit
from tests.support.rig import in_loop


async def cut_with_writes_in_flight(s: Stack) -> list[asyncio.Task[int]]:
    s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
    s.probe("S0t0").buffer[:512] = b"y" * 512
    writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(3)]
    await s.until(lambda: len(s.host.held) == 3)
    s.host.hook = lambda _: None
    s.engine.controllers.get("S0").transport._client._channel.close()  # type: ignore[attr-defined]
    return writes


@in_loop
async def test_another_disk_at_the_same_place_gets_none_of_the_old_ones_writes(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(serial="old"), (1, 0): FakeUnit(naa=2)}
    async with stack(run_dir, units) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        own, other = units[0, 0], FakeUnit(serial="new")
        units[0, 0] = other
        writes = await cut_with_writes_in_flight(s)
        await s.until(lambda: "came back as another disk" in controller.last_error)
        assert "target 0 LUN 0" in controller.last_error
        assert "its serial is 'new', it was 'old'" in controller.last_error
        assert (controller.state, other.data) == ("reconnecting", {})
        assert not any(w.done() for w in writes)
        units[0, 0] = own
        assert await asyncio.gather(*writes) == [0] * 3
        assert [own.data[i] for i in range(3)] == [b"y" * 512] * 3
        await s.until(lambda: controller.state == "up")  # its I/O may be answered before


@in_loop
async def test_a_unit_that_is_gone_on_return_is_removed_and_the_rest_goes_on(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units) as s:
        await s.attach()
        del units[0, 0]
        writes = await cut_with_writes_in_flight(s)
        assert await asyncio.gather(*writes) == [-19] * 3
        await s.until(lambda: ("bdev_unregister", "S0t0") in s.events)
        assert await s.do("S0t1", "read") == 0


@pytest.mark.waits
@in_loop
async def test_a_unit_that_does_not_say_who_it_is_holds_up_its_own_writes_only_until_they_time_out(
    run_dir: Path,
) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    async with stack(run_dir, units, io_timeout_s=3.0) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")
        s.host.hook = lambda c: FakeHost.SILENCE if c.cdb[0] in WRITES else None
        writes = [asyncio.ensure_future(s.do("S0t0", "write", 512 * i)) for i in range(3)]
        await s.until(lambda: len(s.host.held) == 3)
        s.host.hook = lambda c: FakeHost.SILENCE if c.target == 0 else None
        controller.transport._client._channel.close()  # type: ignore[attr-defined]
        await s.until(lambda: "does not tell whether it is still the same disk" in controller.last_error)
        assert await asyncio.gather(*writes) == [-110] * 3
        await s.until(lambda: controller.state == "up")
        assert await s.do("S0t1", "read") == 0
        assert units[0, 0].data == {}
