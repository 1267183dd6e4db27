"""Any number of queues with any number of pollers: what is written comes back, and the counters balance at rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.contracts.controller import check_load
from tests.support.process import allowed_cpus
from virtiod.controllers import AttachRequest
from virtiod.system import System
from virtiod.target.blk.device import DiskSpec
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
        engine = System(allowed_cpus(pollers), memory_mib=32)
        await target.start()
        engine.start()
        try:
            request = AttachRequest("V0", "user", path, "blk", vq_count=queues, vq_size=vq_size)
            await check_load(engine, request, pollers, queues, SIZE)
        finally:
            await engine.stop()
            await target.stop()

    asyncio.run(main())
