"""Any number of queues with any number of pollers: what is written comes back, and the counters balance at rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.process import allowed_cpus
from virtiod.controllers import AttachRequest
from virtiod.engine import Engine
from virtiod.perf import Workload
from virtiod.target.blk import DiskSpec
from virtiod.target.target import Target

SIZE = 8 << 20


@pytest.mark.parametrize(("pollers", "queues"), [(1, 1), (1, 4), (2, 1), (2, 2), (2, 4)])
@pytest.mark.parametrize("vq_size", [8, 512])
def test_any_number_of_queues_suits_any_number_of_pollers(
    run_dir: Path, pollers: int, queues: int, vq_size: int
) -> None:
    path = str(run_dir / "t.sock")

    async def main() -> None:
        target = Target({path: DiskSpec(size=SIZE, memory=True, queues=queues)})
        engine = Engine(allowed_cpus(pollers), memory_mib=32)
        await target.start()
        engine.start()
        try:
            await engine.controllers.attach(AttachRequest("V0", "user", path, "blk", vq_count=queues, vq_size=vq_size))
            workload = Workload("verify", block_size=8192, queue_depth=24, total_bytes=SIZE, seed=1)
            report = await engine.perf.run(["V0"], workload)
            assert [r["status"] for r in report["results"]] == ["finished"] * pollers
            assert report["totals"]["io_mismatched"] == 0
            check_counters(engine, pollers, queues, report["totals"]["ios"])
        finally:
            await engine.stop()
            await target.stop()

    asyncio.run(main())


def check_counters(engine: Engine, pollers: int, queues: int, ios: int) -> None:
    """Everything that was submitted was completed, on every channel and queue; every poller and queue had a part."""
    bdev = engine.bdevs.get("V0")
    channels = bdev.channel_stats()
    assert [poller.name for poller, _ in channels] == [f"poller_{n}" for n in range(pollers)]
    for stats in (bdev.stats(), *(stats for _, stats in channels)):
        assert (stats.in_flight, stats.oldest_ns) == (0, 0)
        for op in stats.ops.values():
            assert op.submitted == op.completed + op.failed == sum(op.buckets)
        assert stats.ops["write"].completed == stats.ops["read"].completed > 0
    total = bdev.stats().ops
    assert total["write"].completed + total["read"].completed == ios
    assert total["write"].bytes == total["read"].bytes >= SIZE
    found = engine.controllers.get("V0").queues
    assert len(found) == queues
    for queue in found:
        assert queue.submitted == queue.completed > 0
        assert queue.in_flight == 0
    assert sum(queue.completed for queue in found) >= ios
    assert all(poller.stats().in_flight == 0 for poller in engine.pollers)
