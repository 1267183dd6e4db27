"""A real Prometheus scrapes a live daemon under load, and answers what dashboards ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.http_server import live
from tests.support.peers import requires, storage_daemon
from tests.support.prometheus import ask, prometheus
from tests.support.waiting import LOAD_S, PATIENCE_S
from virtiod.controllers.request import AttachRequest
from virtiod.load.workload import Workload

pytestmark = pytest.mark.programs

DEADLINE_S = 2 * PATIENCE_S

CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
- job_name: virtiod
  static_configs: [{{targets: ['127.0.0.1:{port}']}}]
"""

# Each must answer with one value within these limits.
QUERIES = {
    'up{job="virtiod"}': (1, 1),
    'virtiod_queue_depth{controller="V0",queue="0"}': (1, 16),
    'virtiod_bdev_io_now{bdev="V0"}': (1, 16),
    'rate(virtiod_bdev_reads_completed_total{bdev="V0"}[5s])': (10, 1e8),
    'rate(virtiod_bdev_io_time_weighted_seconds_total{bdev="V0"}[5s])': (0.1, 64),
    'histogram_quantile(0.5, rate(virtiod_bdev_io_duration_seconds_bucket{bdev="V0",op="read"}[5s]))': (1e-6, 1),
    'histogram_quantile(0.99, rate(virtiod_bdev_io_duration_seconds_bucket{bdev="V0",op="read"}[5s]))': (1e-6, 1),
    'sum(rate(virtiod_poller_seconds_total{thread="poller_0"}[5s]))': (0.1, 2),
    'virtiod_controller_state{state="up"}': (1, 1),
    'virtiod_bdev_info{bdev="V0",controller="V0"}': (1, 1),
}


async def ask_until_all_fit(url: str) -> dict[str, list[Any]]:
    """The answers of QUERIES that do not fit when the time is up."""
    left: dict[str, list[Any]] = {query: [] for query in QUERIES}
    end = asyncio.get_running_loop().time() + DEADLINE_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        while left and asyncio.get_running_loop().time() < end:
            for query in list(left):
                low, high = QUERIES[query]
                left[query] = await ask(session, url, query)
                if len(left[query]) == 1 and low <= left[query][0] <= high:
                    del left[query]
            await asyncio.sleep(0.1)
    return left


def test_prometheus_shows_queue_depth_and_latency_of_a_loaded_disk(run_dir: Path) -> None:
    requires("prometheus")

    async def run(target: Path) -> None:
        async with live(run_dir) as running:
            await running.daemon.system.controllers.attach(AttachRequest("V0", "user", str(target), "blk", None, None))
            load = asyncio.create_task(
                running.daemon.system.load.run(["V0"], Workload(rw="randread", queue_depth=16, time_s=LOAD_S))
            )
            with prometheus(run_dir, CONFIG.format(port=running.port)) as url:
                left = await ask_until_all_fit(url)
            log = (run_dir / "prometheus.log").read_text()
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            assert left == {}, log

    with storage_daemon(run_dir, "driver=null-co,size=1073741824,read-zeroes=on") as target:
        asyncio.run(run(target.socket))
