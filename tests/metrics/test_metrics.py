"""What /metrics shows: the metrics of the catalogue and no others, with the values that the daemon counted."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import openmetrics
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http_server import OPENMETRICS, Live, run_live
from tests.support.peers import requires, storage_daemon
from tests.support.rpc_peer import connected
from tests.support.waiting import until
from virtiod.bdev.counters import ERRORS
from virtiod.bdev.histogram import bucket_start
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.load.workload import Workload
from virtiod.metrics import describe
from virtiod.metrics.catalogue import ENTRIES, IO_BOUNDS_NS
from virtiod.metrics.collector import IO_CUTS, SystemCollector
from virtiod.metrics.families import Page, Values
from virtiod.metrics.lines import counter_lines

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[f"virtiod_{name}", frozenset(labels.items())]


async def with_everything(live: Live, target: Path) -> None:
    """A controller, a bdev over nothing, an export, and some load and calls on them."""
    await live.daemon.system.controllers.attach(AttachRequest("V0", "user", str(target), "blk", None, None))
    live.add_null("Null0")
    await live.daemon.system.exports.of(NbdExports).create("V0", "disk")
    await live.load("V0")
    await live.load("Null0", "write")
    await live.daemon.rpc.call("bdev_get_bdevs", {})


class Metrics:
    """A page as prometheus_client's own writers take it."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterator[Metric]:
        return (family.metric() for family in self._page)


NULL_DISK = "driver=null-co,size=1073741824,read-zeroes=on"


def collector(live: Live) -> SystemCollector:
    return SystemCollector(live.daemon.system, live.daemon.rpc.timings, live.daemon.health)


@pytest.mark.programs
def test_page_has_the_metrics_of_the_catalogue_with_their_types_and_labels(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        with storage_daemon(run_dir, NULL_DISK) as target:
            await with_everything(live, target.socket)
            text = await live.scrape()
            await live.daemon.system.controllers.detach("V0")
        plain = {"info": "gauge"}
        types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
        assert types == {entry.name: plain.get(entry.kind, entry.kind) for entry in ENTRIES}
        shown: dict[str, set[str]] = {}
        for name, labels in samples(text):
            stem = name if name in types else name.rpartition("_")[0]
            shown.setdefault(stem, set()).update({key for key, _ in labels} - {"le"})
        assert shown == {entry.name: set(entry.labels) for entry in ENTRIES}

    run_live(run_dir, test)


def test_names_follow_prometheus_conventions() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.name.startswith("virtiod_")
        assert entry.name.endswith("_total") == (entry.kind == "counter")
        assert entry.name.endswith("_info") == (entry.kind == "info")
        assert entry.help.endswith(".") and "\\" not in entry.help and "\n" not in entry.help


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


def test_others_get_their_turn_while_many_bdevs_are_read(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for number in range(200):
            live.add_null(f"Null{number}")
        collecting = asyncio.create_task(collector(live).collect())
        turns = 0
        while not collecting.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 10
        (family,) = [f for f in collecting.result() if f.entry.name == "virtiod_bdev_io_now"]
        assert isinstance(family, Values)
        assert {labels[0] for labels, _ in family.values} == {f"Null{number}" for number in range(200)}

    run_live(run_dir, test)


def test_counter_lines_are_what_python_would_write() -> None:
    values = [0, 1, 9, 10, 99, 100, 12345678901234567890, (1 << 64) - 1]
    middles = [b"m" * n + b" " for n in range(len(values))]
    expected = "".join(f"start{m.decode()}{value}\n" for m, value in zip(middles, values, strict=True))
    assert counter_lines(b"start", middles, values).decode() == expected
    assert counter_lines(b"", [], []) == b""
    for wrong in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            counter_lines(b"a", [b"b"], [wrong])
    with pytest.raises(ValueError, match="2 lines, but 1 values"):
        counter_lines(b"a", [b"b", b"c"], [1])


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


def test_the_page_about_the_metrics_is_up_to_date() -> None:
    assert describe.DOCUMENT.read_text() == describe.document(), "run python -m virtiod.metrics.describe"


@pytest.mark.programs
def test_the_queries_of_that_page_are_ones(tmp_path: Path) -> None:
    requires("promtool")
    rules = [{"record": "a:b", "expr": query} for query in describe.QUERIES.values()]
    file = tmp_path / "rules.json"  # which is YAML too
    file.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    named = set(re.findall(r"virtiod_\w+", " ".join(describe.QUERIES.values())))
    known = {
        e.name + end for e in ENTRIES for end in (("_bucket", "_sum", "_count") if e.kind == "histogram" else ("",))
    }
    assert named <= known


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


def test_values_are_those_that_the_load_had(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        bdev = live.add_null("Null0", ("read", "write", "flush"))
        await live.load("Null0", "randread", 100)
        await live.load("Null0", "write", 50)
        text = await live.scrape()
        null = {"bdev": "Null0"}
        stats = bdev.stats()
        reads = stats.ops["read"].completed
        assert reads >= 100 and stats.ops["write"].completed >= 50
        assert value(text, "bdev_reads_completed_total", **null) == reads
        assert value(text, "bdev_read_bytes_total", **null) == reads * 4096
        assert value(text, "bdev_writes_completed_total", **null) == stats.ops["write"].completed
        assert value(text, "bdev_written_bytes_total", **null) == stats.ops["write"].bytes
        assert value(text, "bdev_read_time_seconds_total", **null) == stats.ops["read"].time_ns / 1e9
        assert value(text, "bdev_io_time_weighted_seconds_total", **null) == stats.weighted_ns / 1e9
        assert value(text, "bdev_io_time_seconds_total", **null) == stats.busy_ns / 1e9
        assert value(text, "bdev_capacity_bytes", **null) == 1 << 29
        assert value(text, "bdev_io_now", **null) == value(text, "bdev_oldest_io_seconds", **null) == 0
        assert value(text, "bdev_io_duration_seconds_count", op="read", **null) == reads
        assert value(text, "bdev_io_duration_seconds_bucket", op="read", le="+Inf", **null) == reads
        assert value(text, "bdev_io_duration_seconds_sum", op="read", **null) == stats.ops["read"].time_ns / 1e9
        assert value(text, "bdev_io_duration_seconds_count", op="flush", **null) == 0
        assert value(text, "bdev_io_errors_total", op="read", status="io", **null) == 0
        assert {status for status in ERRORS if f'op="unmap",status="{status}"' in text} == set()
        assert value(text, "dma_memory_bytes") >= value(text, "dma_memory_used_bytes") > 0

    run_live(run_dir, test)


def test_histogram_counts_what_the_fine_buckets_do(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        bdev = live.add_null("Null0")
        await live.load("Null0", "randread", 1000)
        fine = bdev.latencies(["read"])
        text = await live.scrape()
        for bound, cut in zip(IO_BOUNDS_NS, IO_CUTS, strict=True):
            le = repr(bound / 1e9)
            assert value(text, "bdev_io_duration_seconds_bucket", bdev="Null0", op="read", le=le) == sum(fine[:cut])

    run_live(run_dir, test)


def test_bounds_are_1_2_5_from_a_microsecond_to_ten_seconds_and_met_within_1_percent() -> None:
    assert IO_BOUNDS_NS[:4] == (1000, 2000, 5000, 10000)
    assert IO_BOUNDS_NS[-3:] == (2 * 10**9, 5 * 10**9, 10 * 10**9)
    assert len(IO_BOUNDS_NS) == 22
    for bound, cut in zip(IO_BOUNDS_NS, IO_CUTS, strict=True):
        assert abs(bucket_start(cut) / bound - 1) < 0.01


def test_no_counter_goes_back_while_load_runs_and_iostat_is_reset(run_dir: Path) -> None:
    counters = {entry.name for entry in ENTRIES if entry.kind in {"counter", "histogram"}}

    async def test(live: Live) -> None:
        live.add_null("Null0")
        before: Samples = {}
        async with connected(run_dir) as peer:
            for round_ in range(20):
                load = asyncio.create_task(live.load("Null0", "randrw", 20_000))
                while not load.done():
                    now = samples(await live.scrape())
                    for key, was in before.items():
                        if key[0] in counters or key[0].rpartition("_")[0] in counters:
                            assert now[key] >= was, key
                    before = now
                await load
                await peer.result("bdev_reset_iostat", mode="all", **({"name": "Null0"} if round_ % 2 else {}))
        reads = before["virtiod_bdev_reads_completed_total", frozenset({("bdev", "Null0")})]
        assert reads > 0

    run_live(run_dir, test)


def test_time_with_io_in_flight_never_goes_back_however_often_it_is_read(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        bdev = live.add_null("Null0")
        load = asyncio.create_task(live.daemon.system.load.run(["Null0"], Workload(queue_depth=1, time_s=0.3)))
        was = 0
        while not load.done():
            for _ in range(1000):  # far more often than I/Os begin and end
                busy = bdev.stats().busy_ns
                assert busy >= was
                was = busy
            await asyncio.sleep(0)
        assert was > 0

    run_live(run_dir, test)


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


def test_calls_are_timed_by_method(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        async with connected(run_dir) as peer:
            for _ in range(3):
                await peer.result("bdev_get_bdevs")
            await peer.error("bdev_get_bdevs", name="none")
            await peer.error("no_such_method")
        text = await live.scrape()
        assert value(text, "rpc_duration_seconds_count", method="bdev_get_bdevs") == 4
        assert value(text, "rpc_duration_seconds_bucket", method="bdev_get_bdevs", le="+Inf") == 4
        assert 0 < value(text, "rpc_duration_seconds_sum", method="bdev_get_bdevs") < 10
        assert "no_such_method" not in text

    run_live(run_dir, test)


@pytest.mark.programs
def test_a_lost_controller_is_down_and_its_bdev_still_shown(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        with storage_daemon(run_dir, NULL_DISK) as target:
            await with_everything(live, target.socket)
            assert value(await live.scrape(), "controller_up", controller="V0") == 1
        await until(lambda: live.daemon.system.controllers.get("V0").state == "reconnecting", "the loss is noticed")
        text = await live.scrape()
        assert value(text, "controller_up", controller="V0") == 0
        assert value(text, "controller_state", controller="V0", state="reconnecting") == 1
        assert value(text, "controller_state", controller="V0", state="up") == 0
        assert value(text, "bdev_reads_completed_total", bdev="V0") >= 100
        await live.daemon.system.controllers.detach("V0")

    run_live(run_dir, test)
