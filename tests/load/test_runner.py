"""The load generator: bdevperf's terms, and corruption is found."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.load.engine import engine
from tests.support.fake_device import IN, OK, Request
from tests.support.rig import Rig, in_loop
from tests.support.waiting import LOAD_S, soon, until
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.core.memory import MIB
from virtiod.load.job import LoadJob
from virtiod.load.runner import Snapshot
from virtiod.load.workload import PATTERNS, JobSpec, Workload

FIGURES = {
    "runtime", "ios", "bytes", "iops", "mibps", "io_failed", "io_timeout", "io_mismatched", "avg_latency_us",
    "min_latency_us", "max_latency_us", "p50_latency_us", "p99_latency_us", "p99_9_latency_us",
}  # fmt: skip
JOB = FIGURES | {"job", "core_mask", "workload", "status", "queue_depth", "io_size", "keeps_writes"}


@pytest.mark.parametrize("rw", [p for p in PATTERNS if p != "verify"])
@in_loop
async def test_a_report_has_the_keys_of_bdevperf_and_quantiles(rw: str) -> None:
    async with engine("N0") as e:
        report = await e.load.run(["N0"], Workload(rw, total_bytes=4 * MIB, queue_depth=8))
        (result,) = report.results
        shown = msgspec.to_builtins(report)
        assert shown["results"][0].keys() == JOB | ({"percentage"} if rw == "randrw" else set())
        assert shown["totals"].keys() == FIGURES
        assert (result.job, result.status, result.ios, result.bytes) == ("N0", "finished", 1024, 4 * MIB)
        assert 0 <= result.min_latency_us <= result.p50_latency_us * 1.04
        assert result.p50_latency_us <= result.p99_latency_us <= result.p99_9_latency_us
        stats = e.bdevs.get("N0").stats().ops
        assert stats["read"].completed + stats["write"].completed == 1024
        assert bool(stats["read"].completed) == (rw not in {"randwrite", "write"})
        assert bool(stats["write"].completed) == (rw not in {"randread", "read"})


@in_loop
async def test_every_bdev_is_loaded_from_every_poller_and_totals_add_up() -> None:
    async with engine("N0", "N1", pollers=2) as e:
        seen: list[Snapshot] = []
        workload = Workload(time_s=LOAD_S, queue_depth=4)
        running = asyncio.create_task(e.load.run(["N0", "N1", "N0"], workload, progress=seen.append))
        await until(lambda: seen)
        await e.load.stop()
        report = await soon(running)
        assert [r.job for r in report.results] == ["N0", "N0", "N1", "N1"]
        assert report.totals.ios == sum(r.ios for r in report.results) > 0
        assert all(0 < s.share <= 1 and s.failed == 0 for s in seen)


@in_loop
async def test_iops_and_throughput_are_those_of_ios_that_succeeded() -> None:
    async with engine("N0", io_types=frozenset({"read"})) as e:
        report = await e.load.run(["N0"], Workload("randrw", total_bytes=4 * MIB, queue_depth=8))
        (result,) = report.results
        ops = e.bdevs.get("N0").stats().ops
        assert (result.status, result.ios) == ("failed", 1024)
        assert result.io_failed == ops["write"].failed == 1024 - ops["read"].completed > 0
        for one in (result, report.totals):
            assert one.iops * one.runtime == pytest.approx(ops["read"].completed)
            assert one.mibps * one.runtime == pytest.approx(ops["read"].bytes / MIB)


@in_loop
async def test_progress_shows_as_done_only_what_succeeded() -> None:
    async with engine("N0", io_types=frozenset({"read"})) as e:
        seen: list[Snapshot] = []
        running = asyncio.create_task(e.load.run(["N0"], Workload("randwrite", time_s=LOAD_S), progress=seen.append))
        await until(lambda: seen)
        await e.load.stop()
        await soon(running)
        assert all(s.failed > 0 and (s.iops, s.mib_s) == (0, 0) for s in seen)


@pytest.mark.parametrize("rw", PATTERNS)
@in_loop
async def test_the_share_that_progress_shows_is_all_at_the_end(rw: str) -> None:
    async with engine("N0", "N1", pollers=2) as e:
        workload = Workload(rw, total_bytes=MIB + 4096, queue_depth=4)
        report = await e.load.run(["N0", "N1"], workload)
        assert report.totals.ios == workload.total_ios(bdevs=2, jobs=2)


@in_loop
async def test_a_bdev_that_goes_ends_its_load_and_buffers_go_back() -> None:
    async with engine("N0") as e:
        used = e.memory.used
        running = asyncio.create_task(e.load.run(["N0"], Workload(time_s=LOAD_S)))
        await until(lambda: e.bdevs.get("N0").stats().ops["read"].completed)
        await soon(e.bdevs.unregister(e.bdevs.get("N0")))
        report = await soon(running)
        assert report.results[0].status == "terminated"
        assert e.memory.used == used


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (Workload("nonsense"), "rw 'nonsense'"),
        (Workload(block_size=0), "block_size 0"),
        (Workload(block_size=1000), "block_size 1000"),
        (Workload(queue_depth=0), "queue_depth 0"),
        (Workload(queue_depth=65537), "queue_depth 65537"),
        (Workload(rw_mix_read=101), "rw_mix_read 101"),
        (Workload(time_s=0.0), "time_s 0"),
        (Workload(total_bytes=100), "total_bytes 100"),
        (Workload(block_size=128 * MIB, queue_depth=1), "too small"),
        (Workload("verify", block_size=MIB, queue_depth=65), "too small"),
        (Workload(block_size=MIB, queue_depth=5000), "MiB of buffers"),
    ],
)
@in_loop
async def test_a_workload_that_can_not_be_is_refused(workload: Workload, says: str) -> None:
    async with engine("N0") as e:
        with pytest.raises(InvalidArgument, match=says):
            await e.load.run(["N0"], workload)


@in_loop
async def test_who_or_where_that_is_not_there_is_told() -> None:
    async with engine("N0", read_only=True, io_types=frozenset({"read"})) as e:
        with pytest.raises(NotFound, match="'N9'"):
            await e.load.run(["N9"], Workload())
        with pytest.raises(InvalidArgument, match="none given"):
            await e.load.run([], Workload())
        with pytest.raises(InvalidArgument, match=r"cores \[77\]"):
            await e.load.run(["N0"], Workload(), cpus=[77])
        with pytest.raises(InvalidArgument, match="read-only"):
            await e.load.run(["N0"], Workload("randwrite"))


# ---- verify


async def verify(rig: Rig, device: object, ios: int = 40, depth: int = 4) -> LoadJob:
    """A verifying load on a device that answers by a function of the request."""
    spec = JobSpec(Workload("verify", queue_depth=depth), rig.bdev.size, seed=3, ios=ios)
    job = LoadJob(rig.memory, rig.poller, rig.channels, spec)
    running = asyncio.ensure_future(job.run())
    await asyncio.sleep(0)
    rig.settle(device)  # type: ignore[arg-type]
    await soon(running)
    job.close(lambda _, at: rig.memory.free(at))
    return job


@in_loop
async def test_verify_finds_nothing_wrong_with_an_honest_disk() -> None:
    async with Rig(size=16) as rig:
        counters = (await verify(rig, None)).counters()
        assert (counters.io.completed, counters.io.failed, counters.mismatches) == (80, 0, 0)
        assert {r.length for r in rig.device.requests} == {4096}


@pytest.mark.parametrize("byte", [0, 8, 2049, 4095])
@in_loop
async def test_verify_sees_one_changed_byte(byte: int) -> None:
    async with Rig(size=16) as rig:
        reads = 0

        def corrupt(request: Request) -> int:
            nonlocal reads
            rig.device.execute(request)
            if request.type == IN:
                reads += 1
                if reads == 7:
                    rig.memory.view(*request.into[0])[byte] ^= 1
            return OK

        counters = (await verify(rig, corrupt)).counters()
        assert (counters.io.failed, counters.mismatches) == (0, 1)


@in_loop
async def test_verify_sees_a_write_that_was_acknowledged_and_lost() -> None:
    async with Rig(size=16) as rig:
        writes = 0

        def lose(request: Request) -> int:
            nonlocal writes
            if request.type != IN:
                writes += 1
                if writes % 10 == 0:
                    return OK
            return rig.device.execute(request)

        assert (await verify(rig, lose)).counters().mismatches == 4


@in_loop
async def test_verify_sees_a_read_that_moved_nothing() -> None:
    async with Rig(size=16) as rig:
        counters = (await verify(rig, lambda _: OK)).counters()
        assert counters.mismatches == 40
