"""What /metrics shows: the metrics of the catalogue and no others, with the values that the daemon counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.metrics.page import NULL_DISK, Samples, collector, samples, value, with_everything
from tests.support.http_server import Live, run_live
from tests.support.peers import storage_daemon
from tests.support.rpc_peer import connected
from tests.support.waiting import until
from virtiod.bdev.counters import ERRORS
from virtiod.bdev.histogram import bucket_start
from virtiod.load.workload import Workload
from virtiod.metrics.catalogue import ENTRIES, IO_BOUNDS_NS
from virtiod.metrics.collector import IO_CUTS
from virtiod.metrics.families import Values


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


def test_times_and_numbers_of_ios_are_of_the_same_ios(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        bdev = live.add_null("Null0", ("read",))
        await live.load("Null0", "randrw", 100)
        text = await live.scrape()
        write = bdev.stats().ops["write"]
        assert (write.completed, write.failed > 0) == (0, True)
        assert value(text, "bdev_writes_completed_total", bdev="Null0") == 0
        assert value(text, "bdev_write_time_seconds_total", bdev="Null0") == 0
        assert value(text, "bdev_io_duration_seconds_count", bdev="Null0", op="write") == write.failed
        assert value(text, "bdev_io_duration_seconds_sum", bdev="Null0", op="write") == write.time_ns / 1e9

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
