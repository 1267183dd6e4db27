"""Families of metrics as text: what Prometheus's own client reads and writes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import openmetrics
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.metrics.page import NULL_DISK, Metrics, collector, samples, with_everything
from tests.support.http_server import OPENMETRICS, Live, run_live
from tests.support.peers import requires, storage_daemon


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_page_says_what_prometheus_clients_own_writer_says(run_dir: Path, accept: str) -> None:
    async def test(live: Live) -> None:
        live.add_null("Null0")
        await live.load("Null0")
        page = await collector(live).collect()
        ours = page.encode(bool(accept)).decode()
        if accept:
            theirs = openmetrics.exposition.generate_latest(Metrics(page)).decode()
            assert list(parse_openmetrics(ours)) == list(parse_openmetrics(theirs))
        else:
            assert samples(ours) == samples(generate_latest(Metrics(page)).decode())

    run_live(run_dir, test)


def test_page_is_written_much_faster_than_by_prometheus_clients_own_writer(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for number in range(100):
            live.add_null(f"Null{number}", ("read", "write", "flush", "unmap"))
        page = await collector(live).collect()

        def cpu_s(write: Callable[[], bytes]) -> float:
            def once() -> float:
                started = time.thread_time()
                write()
                return time.thread_time() - started

            return min(once() for _ in range(3))

        assert cpu_s(lambda: page.encode(False)) * 10 < cpu_s(lambda: generate_latest(Metrics(page)))

    run_live(run_dir, test)


def test_format_is_the_one_that_the_client_accepts(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        live.add_null("Null0")
        _, text, headers = await live.get("/metrics")
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "# TYPE virtiod_bdev_reads_completed_total counter" in text
        _, text, headers = await live.get("/metrics", Accept=f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert "# TYPE virtiod_bdev_reads_completed counter" in text
        assert text.endswith("# EOF\n")
        assert {family.name for family in parse_openmetrics(text)} >= {"virtiod_bdev_reads_completed", "virtiod_build"}

    run_live(run_dir, test)


@pytest.mark.programs
def test_promtool_finds_nothing_to_complain_of(run_dir: Path) -> None:
    requires("promtool")
    pages: list[str] = []

    async def test(live: Live) -> None:
        with storage_daemon(run_dir, NULL_DISK) as target:
            await with_everything(live, target.socket)
            text = await live.scrape()
            await live.daemon.system.controllers.detach("V0")
        pages.append(text)

    run_live(run_dir, test)
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=pages[0], capture_output=True, text=True, timeout=30, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_labels_are_escaped(run_dir: Path) -> None:
    names = ['quote"', "back\\slash", "new\nline", "{}=,", "größe", "\\n"]

    async def test(live: Live) -> None:
        for name in names:
            live.add_null(name)
        plain = await live.scrape()
        _, openmetrics_text, _ = await live.get("/metrics", Accept=OPENMETRICS)
        for text, parse in ((plain, text_string_to_metric_families), (openmetrics_text, parse_openmetrics)):
            found = [
                sample.labels["bdev"]
                for family in parse(text)
                for sample in family.samples
                if sample.name == "virtiod_bdev_io_now"
            ]
            assert found == names

    run_live(run_dir, test)
