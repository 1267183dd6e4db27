"""The feed of the live page: what it says of the last minutes, and what those who watch can cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.http_server import Live, run_live, serving
from tests.support.waiting import LOAD_S, until
from virtiod.bdev.counters import ended_ios
from virtiod.core.ticks import NS_PER_S
from virtiod.exports.nbd.exports import NbdExports
from virtiod.http.live import feed, sampler
from virtiod.http.live.cells import IDLE, Cell, difference
from virtiod.http.live.report import ROWS
from virtiod.http.security.connections import MAX_CONNECTIONS
from virtiod.load.workload import Workload

FIELDS = ("at", *Cell._fields)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample each 20 ms instead of each second."""
    monkeypatch.setattr(sampler, "PERIOD_S", 0.02)


@contextlib.asynccontextmanager
async def watching(live: Live, query: str = "") -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """The events of /live as (name, data)."""

    async def events(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, Any]]:
        while name := await content.readuntil(b"\n"):
            data, end = await content.readuntil(b"\n"), await content.readuntil(b"\n")
            assert name.startswith(b"event: ") and data.startswith(b"data: ") and end == b"\n"
            yield name[7:-1].decode(), json.loads(data[6:])

    async with (
        aiohttp.ClientSession(read_bufsize=1 << 22) as session,
        session.get(f"http://127.0.0.1:{live.port}/live{query}") as response,
    ):
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        yield events(response.content)


def test_history_comes_first_then_samples_that_add_up_to_what_was_done(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "PERIOD_S", 0.2)  # times are sent in milliseconds

    async def test(live: Live) -> None:
        bdev = live.add_null("Null0")
        live.add_null("Null1")
        await until(lambda: len(bdev_of(live)) == 2, "the sampler has seen both")
        async with watching(live, "?bdev=Null0") as events:
            name, history = await anext(events)
            assert name == "history" and history["seconds"] == 300
            assert all(not any(row[1:7]) for row in history["cells"])
            at = history["cells"][-1][0]
            await live.load("Null0", "randrw", 20_000)
            await live.load("Null1", "write", 500)
            stats, sums = bdev.stats(), dict.fromkeys(FIELDS[1:7], 0.0)
            async for name, sample in events:
                assert name == "sample" and sample["bdev"] == "Null0" and not sample["gone"]
                shown = dict(zip(FIELDS, sample["cell"], strict=True))
                for field in sums:
                    sums[field] += shown[field] * (shown["at"] - at)
                at = shown["at"]
                if sums["reads"] + sums["writes"] >= 0.95 * ended_ios(bdev.channels) and not shown["reads"]:
                    break
            read, write = stats.ops["read"], stats.ops["write"]
            expected = [read.completed, write.completed, 0, read.bytes, write.bytes, 0]
            assert list(sums.values()) == pytest.approx(expected, rel=0.05)

    run_live(run_dir, test)


def bdev_of(live: Live) -> list[Any]:
    """The bdevs that the feed's sampler knows."""
    return list(live.feed.sampler.bdevs)


def test_counters_of_cells_are_exact(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        bdev = live.add_null("Null0", ("read", "write", "flush", "unmap"))
        one = sampler.Sampler(live.daemon.system)
        await one.sample()
        before = one.bdevs[bdev].counted
        await live.load("Null0", "randrw", 1000)
        await one.sample()
        change, totals = difference(one.bdevs[bdev].counted, before), bdev.stats()
        assert (change.reads, change.writes) == (totals.ops["read"].completed, totals.ops["write"].completed)
        assert change.time_ns == totals.weighted_ns
        assert sum(one.total.counts[1::2]) == ended_ios(bdev.channels) == change.below[-1]
        assert one.total.iops == pytest.approx((change.reads + change.writes) * NS_PER_S / change.at_ns)
        await one.sample()
        assert one.total is IDLE and one.bdevs[bdev].cell is IDLE

    run_live(run_dir, test)


def test_what_hangs_shows_its_depth_and_age(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        live.add_null("Null0")
        load = asyncio.create_task(live.daemon.system.load.run(["Null0"], Workload(queue_depth=7, time_s=LOAD_S)))
        async with watching(live) as events:
            async for name, sample in events:
                if name == "sample" and sample["cell"][7] == 7:
                    break
            (row,) = sample["bdevs"]["rows"]
            assert row["depth"] == 7
            assert 1 <= sample["pollers"]["rows"][0]["depth"] <= 7  # counted a moment later, while it runs
            busy, idle, sleep = (sample["pollers"]["rows"][0][mode] for mode in ("busy", "idle", "sleep"))
            assert busy + idle + sleep == pytest.approx(1, abs=0.01)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)

    run_live(run_dir, test)


def test_tables_are_cut_and_searched(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for number in range(200):
            live.add_null(f"Null{number}")
        await live.load("Null150", ios=2000)
        await until(lambda: len(bdev_of(live)) == 200, "all are sampled")
        load = asyncio.create_task(live.daemon.system.load.run(["Null150"], Workload(queue_depth=1, time_s=LOAD_S)))
        async with watching(live) as events:
            async for name, sample in events:
                if name == "sample" and sample["cell"][1]:
                    break
            assert len(sample["bdevs"]["rows"]) == ROWS and sample["bdevs"]["found"] == 200
            assert sample["bdevs"]["rows"][0]["name"] == "Null150"  # the busiest comes first
        async with watching(live, "?find=nULL19") as events:
            await anext(events)
            _, sample = await anext(events)
            assert [row["name"] for row in sample["bdevs"]["rows"]] == [
                "Null19",
                *(f"Null{n}" for n in range(190, 200)),
            ]
            assert sample["bdevs"]["found"] == 11
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)

    run_live(run_dir, test)


def test_a_bdev_that_is_not_there_is_gone(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        async with watching(live, "?bdev=none") as events:
            assert (await anext(events))[0] == "history"
            _, sample = await anext(events)
            assert sample["gone"] and sample["bdev"] == "none"

    run_live(run_dir, test)


def test_exports_have_their_rates(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        live.add_null("Null0")
        export = await live.daemon.system.exports.of(NbdExports).create("Null0", "disk")
        clients = [export.admit(peer) for peer in ("pid 7 uid 0", "pid 7 uid 0", "10.0.0.1:4711")]
        async with watching(live) as events:
            async for name, sample in events:
                if name == "sample" and sample["exports"]["rows"]:
                    break
            (row,) = sample["exports"]["rows"]
            assert (row["name"], row["kind"], row["bdev"]) == ("disk", "NBD", "Null0")
            assert (row["requests"], row["connections"], row["clients"]) == (0, 3, "pid 7 uid 0, 10.0.0.1:4711")
        for client in clients:
            client.end("disconnected")

    run_live(run_dir, test)


def test_only_so_many_may_watch(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WATCHERS", 3)

    async def test(live: Live) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await anext(await stack.enter_async_context(watching(live)))
            status, text, headers = await live.get("/live")
            assert (status, text, headers["Retry-After"]) == (503, "3 pages are watching already\n", "10")
            assert (await live.get("/healthz"))[0] == 200
        await until(lambda: not live.feed.watchers, "they have left")
        async with watching(live) as events:
            await anext(events)

    run_live(run_dir, test)


def test_watchers_outlast_the_deadline_of_connections_and_take_no_places(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        async with serving(live, 0.5) as (server, second), watching(second) as events:
            await anext(events)
            started = time.monotonic()
            while time.monotonic() - started < 1.0:
                await anext(events)
            idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_CONNECTIONS + 8)]
            for _ in range(5):
                await anext(events)
            for _, writer in idle:
                writer.close()

    run_live(run_dir, test)


def test_a_watcher_that_does_not_read_is_cut_off(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SEND_S", 0.1)
    monkeypatch.setattr(sampler, "PERIOD_S", 0.0)

    async def test(live: Live) -> None:
        for number in range(ROWS):
            live.add_null(f"Null{number}-{'x' * 200}")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", live.port))
            await loop.sock_sendall(slow, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: live.feed.watchers, "it watches")
            async with watching(live) as events:
                await anext(events)
                await until(lambda: live.feed.watchers == 1, "cut off")
                await anext(events)

    run_live(run_dir, test)


def test_the_end_of_the_daemon_is_not_held_up_by_watchers(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        async with watching(live) as events:
            await anext(events)
            stopping = asyncio.create_task(live.daemon.stop(10))
            async for _ in events:  # to a regular end: it was not cut off by a deadline
                pass
            await stopping

    run_live(run_dir, test)


def test_names_of_the_query_are_bounded(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for key in ("bdev", "find"):
            assert (await live.get(f"/live?{key}={'x' * 257}"))[0] == 400
        assert (await live.get("/live", "POST"))[0] == 405
        assert (await live.get("/live", "HEAD"))[0] == 405

    run_live(run_dir, test)


def test_a_sample_that_fails_is_logged_and_the_next_one_taken(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(live: Live) -> None:
        monkeypatch.setattr(live.daemon.system, "bdevs", None)
        await until(lambda: "live page: could not read the counters" in caplog.text, "the failure is logged")
        monkeypatch.undo()
        second = live.feed.sampler.second
        await until(lambda: live.feed.sampler.second > second, "sampling goes on")
        caplog.clear()  # its records hold the daemon

    run_live(run_dir, test)


@pytest.mark.parametrize("path", ["/", "/live", "/static/page.js", "/static/vendor/uplot/uPlot.iife.min.js"])
def test_the_page_asks_for_a_token_where_there_are_some(run_dir: Path, path: str) -> None:
    tokens = run_dir / "tokens"
    tokens.write_text(f"read-only eve {'e' * 32}\n")
    tokens.chmod(0o600)

    async def test(live: Live) -> None:
        status, _, headers = await live.get(path)
        assert status == 401 and "Basic" in headers["WWW-Authenticate"]  # which browsers ask for
        basic = f"Basic {b64encode(b'eve:' + b'e' * 32).decode()}"
        async with (
            aiohttp.ClientSession(headers={"Authorization": basic}) as session,
            session.get(f"http://127.0.0.1:{live.port}{path}") as response,
        ):
            assert response.status == 200

    run_live(run_dir, test, http_tokens=str(tokens))
