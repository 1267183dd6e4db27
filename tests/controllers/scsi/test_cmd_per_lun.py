"""A unit gets no more commands at once than its controller says it takes (virtio 1.2 §5.6.4 cmd_per_lun)."""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from pathlib import Path

import pytest

from tests.support.fake_scsi_host import Answer, Command, FakeHost, Stack, stack
from tests.support.fake_scsi_units import READS, WRITES, FakeUnit
from tests.support.rig import in_loop
from tests.support.waiting import PATIENCE_S
from virtiod.controllers.manager import AnyController
from virtiod.load.workload import Workload
from virtiod.virtio.scsi import Response


def slow_host(units: dict[tuple[int, int], FakeUnit], cmd_per_lun: int, queues: int = 3) -> FakeHost:
    """The I/O of target 0 stays with it until the test answers."""
    host = FakeHost(units, queues)
    host.cmd_per_lun = cmd_per_lun
    host.hook = lambda c: host.SILENCE if c.target == 0 and c.cdb[0] in READS | WRITES else None
    return host


def answer_first(host: FakeHost) -> Command:
    index, head, command = host.held.pop(0)
    host.answer(index, head, host.execute(command))
    return command


@in_loop
async def test_what_is_beyond_it_waits_in_order_and_holds_up_no_other_unit(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(max_transfer=2), (1, 0): FakeUnit()}
    host = slow_host(units, 3)
    async with stack(run_dir, units, host=host) as s:
        await s.attach()
        ios = [asyncio.ensure_future(s.do("S0t0", "write", 4096 * i, 4096)) for i in range(10)]
        places, most = [], 0
        while not all(io.done() for io in ios):
            await s.until(lambda: host.held or all(io.done() for io in ios))
            assert await s.do("S0t1", "read") == 0  # not behind them
            most = max(most, len(host.held))
            if host.held:
                places.append(int.from_bytes(answer_first(host).cdb[2:6], "big"))
        assert [io.result() for io in ios] == [0] * 10
        assert most == 3
        assert places == list(range(0, 80, 2))


async def load(s: Stack, names: list[str], host: FakeHost, at_once: int) -> int:
    """Verify both units while the host answers as late as it can; the most commands that target 0 had at once.

    It has no rest before it has had so many at once.
    """
    workload = Workload("verify", block_size=8192, queue_depth=12, total_bytes=256 << 10)
    running = asyncio.ensure_future(s.engine.load.run(names, workload))
    most = idle = 0
    await s.until(lambda: len(host.held) >= at_once)
    while not running.done():
        before = len(host.held)
        await asyncio.sleep(0)
        most = max(most, len(host.held))
        idle = idle + 1 if len(host.held) == before else 0
        if host.held and idle > 20:
            answer_first(host)
    for result in (await running).results:
        assert (result.status, result.io_failed, result.io_mismatched) == ("finished", 0, 0)
    return most


@pytest.mark.parametrize("cmd_per_lun", [1, 2, 3, 7])
@pytest.mark.parametrize("pollers", [1, 2])
@pytest.mark.parametrize("vq_size", [8, 512])
@in_loop
async def test_it_holds_for_any_number_of_queues_and_when_the_ring_is_full_too(
    run_dir: Path, cmd_per_lun: int, pollers: int, vq_size: int
) -> None:
    units = {(0, 0): FakeUnit(max_transfer=8), (1, 0): FakeUnit(max_transfer=8)}
    host = slow_host(units, cmd_per_lun, 2 + pollers)
    async with stack(run_dir, units, pollers=pollers, host=host) as s:
        names = await s.attach(vq_count=pollers, vq_size=vq_size)
        assert await load(s, names, host, cmd_per_lun) == cmd_per_lun
        for name in names:
            assert s.engine.bdevs.get(name).stats().in_flight == 0


def has_returned(controller: AnyController, times: set[int]) -> bool:
    return controller.reconnects in times


@pytest.mark.waits
@in_loop
async def test_io_that_waits_ends_when_its_time_is_over_and_leaves_no_place_taken(run_dir: Path) -> None:
    units = {(0, 0): FakeUnit(), (1, 0): FakeUnit()}
    host = slow_host(units, 2)
    silent = host.hook
    async with stack(run_dir, units, host=host, io_timeout_s=0.6) as s:
        await s.attach()
        controller = s.engine.controllers.get("S0")

        def abort(subtype: int, target: int, lun: int, task: int) -> int:
            for index, head, command in [h for h in host.held if h[2].id == task]:
                host.held.remove((index, head, command))
                host.answer(index, head, Answer(response=Response.ABORTED))
            return 0

        # A device that aborts, and one that is cut off: again, if it is given what waited before that has timed out.
        for host.tmf, reconnects in ((abort, {0}), (lambda *_: None, {1, 2})):
            host.hook = silent
            ios = [asyncio.ensure_future(s.do("S0t0", "write", 4096 * i, 4096)) for i in range(8)]
            async with asyncio.timeout(PATIENCE_S):
                assert await asyncio.gather(*ios) == [-errno.ETIMEDOUT] * 8
            host.hook = lambda _: None
            host.held.clear()
            ios = [asyncio.ensure_future(s.do("S0t0", "write", 4096 * i, 4096)) for i in range(8)]
            async with asyncio.timeout(PATIENCE_S):
                assert await asyncio.gather(*ios) == [0] * 8
                assert await s.do("S0t0", "flush", 0, 0) == 0  # what is kept would be written again first
            await s.until(partial(has_returned, controller, reconnects))  # its I/O may be answered before it is up
