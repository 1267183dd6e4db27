"""The HTTP server: what it answers, and what clients of every kind can cost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from tests.support.callers import ADMIN, READER, written
from tests.support.http_server import Live, get_by_socket, options, run_live, serving
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import ConnectError, InvalidArgument
from virtiod.core.ticks import now_ns
from virtiod.daemon.daemon import Daemon
from virtiod.http.security.auth import FAILURES_AT_ONCE
from virtiod.http.security.buckets import Buckets
from virtiod.http.security.connections import MAX_CONNECTIONS
from virtiod.http.server import MAX_LINE

# ---- health


def test_health_is_ok_while_every_poller_comes_round(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        assert (await live.get("/healthz"))[:2] == (200, "ok\n")

    run_live(run_dir, test)


def test_health_names_the_poller_that_hangs(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(live: Live) -> None:
        late = now_ns() - 7_000_000_000
        stats = SimpleNamespace(heartbeat_ns=late)
        hung = SimpleNamespace(name="poller_9", stats=lambda: stats, unblock=lambda _: False)
        monkeypatch.setattr(live.daemon.system, "pollers", [hung])
        status, text, _ = await live.get("/healthz")
        monkeypatch.undo()
        assert status == 503
        told = re.match(r"poller_9 has not completed a round for (\d+\.\d) s", text)
        assert told and float(told[1]) >= 7.0, text

    run_live(run_dir, test)


def test_health_is_bad_until_initialised_and_when_stopping(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        assert (await live.get("/healthz"))[:2] == (503, "not initialised\n")
        assert (await live.get("/metrics"))[0] == 200
        await live.daemon.start_init()
        assert (await live.get("/healthz"))[:2] == (200, "ok\n")
        live.daemon._stop_deadline = time.monotonic() + 10
        assert (await live.get("/healthz"))[:2] == (503, "stopping\n")

    run_live(run_dir, test, wait_for_rpc=True)


# ---- pages


def test_only_get_and_head_of_known_pages_are_served(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for method, path, expected in [
            ("GET", "/", 200),
            ("GET", "/static/", 404),
            ("GET", "/static/../app.py", 404),
            ("GET", "/static/%2e%2e/app.py", 404),
            ("GET", "/static/page.js", 200),
            ("HEAD", "/static/style.css", 200),
            ("POST", "/", 405),
            ("GET", "/metrics/", 404),
            ("GET", "/../etc/passwd", 404),
            ("POST", "/none", 404),
            ("POST", "/metrics", 405),
            ("DELETE", "/healthz", 405),
            ("HEAD", "/metrics", 200),
            ("HEAD", "/healthz", 200),
            ("GET", "/metrics?name[]=x", 200),
        ]:
            status, text, headers = await live.get(path, method)
            assert status == expected, (method, path)
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "virtiod"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            if method == "HEAD":
                assert text == ""

    run_live(run_dir, test)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * (MAX_LINE + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (MAX_LINE + 1) + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(1000)) + b"\r\n",
    ],
)
def test_what_is_no_request_gets_400_and_costs_its_connection_only(
    run_dir: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(live: Live) -> None:
        caplog.clear()
        answer = await live.send(data)
        assert caplog.records == [], "it can't fill the log"
        assert answer.startswith(b"HTTP/1.") and answer[8:12] == b" 400", answer[:200]
        assert (await live.get("/healthz"))[0] == 200

    run_live(run_dir, test)


# ---- clients


@pytest.mark.parametrize(
    "data", [b"", b"GET /metrics HTT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"]
)
def test_a_client_that_does_not_finish_its_request_is_cut_off(run_dir: Path, data: bytes) -> None:
    async def test(live: Live) -> None:
        async with serving(live, 0.05) as (_, second):
            with contextlib.suppress(ConnectionResetError):
                assert await second.send(data) == b""

    run_live(run_dir, test)


def test_a_client_that_does_not_take_its_page_is_cut_off(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for i in range(300):
            live.add_null(f"Null{i}")
        async with serving(live, 0.3) as (server, _):
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(slow, ("127.0.0.1", server.port))
                await loop.sock_sendall(slow, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await live.get("/metrics"))[0] == 200
                await until(lambda: not server.connections, "cut off")

    run_live(run_dir, test)


def test_idle_clients_cannot_keep_others_out(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        idle = []
        for _ in range(MAX_CONNECTIONS * 2):
            idle.append(await asyncio.open_connection("127.0.0.1", live.port))
        assert (await live.get("/healthz"))[0] == 200
        assert (await live.get("/metrics"))[0] == 200
        with contextlib.suppress(ConnectionResetError):
            assert await idle[0][0].read() == b""  # the oldest had to go
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    run_live(run_dir, test)


def test_a_connection_carries_one_request(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await live.send(request * 3)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert b"\r\nConnection: close\r\n" in answer

    run_live(run_dir, test)


# ---- the address


def test_port_in_use_fails_the_start_and_leaves_nothing(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def run() -> None:
            daemon = Daemon(options(run_dir, http=("127.0.0.1", port)))
            with pytest.raises(ConnectError, match=f"HTTP at 127.0.0.1 port {port}: Address already in use"):
                await daemon.start()

        asyncio.run(run())
    assert list(run_dir.iterdir()) == []


def test_address_that_is_none_fails_the_start(run_dir: Path) -> None:
    async def run() -> None:
        with pytest.raises(InvalidArgument, match=r"HTTP at no\.such\.host\.invalid port 1: "):
            await Daemon(options(run_dir, http=("no.such.host.invalid", 1))).start()
        with pytest.raises(ConnectError, match=r"HTTP at 192\.0\.2\.1 port 1: Cannot assign requested address"):
            await Daemon(options(run_dir, http=("192.0.2.1", 1))).start()

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []


# ---- floods


def test_an_address_that_connects_too_often_is_cut_off_and_others_are_served(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(live: Live) -> None:
        answered = 0
        for _ in range(30):
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await live.get("/healthz")
                answered += 1
        assert 5 <= answered < 30
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as session,
            session.get(f"http://127.0.0.1:{live.port}/healthz") as response,
        ):
            assert response.status == 200

    monkeypatch.setattr("virtiod.http.security.connections.AT_ONCE", 5.0)
    monkeypatch.setattr("virtiod.http.security.connections.PER_S", 1.0)
    run_live(run_dir, test)


def test_the_address_that_has_most_connections_gives_way(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port, local_addr=("127.0.0.3", 0))
        many = [await asyncio.open_connection("127.0.0.1", live.port) for _ in range(MAX_CONNECTIONS * 2)]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        for _, one in [*many, (reader, writer)]:
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()

    run_live(run_dir, test)


def test_without_file_descriptors_it_waits_and_goes_on(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(live: Live) -> None:
        (listener,) = live.http.connections._listeners
        accept, failures = socket.socket.accept, [1]

        def failing(one: socket.socket) -> Any:
            if one is listener and failures:
                failures.pop()
                raise OSError(errno.EMFILE, "Too many open files")
            return accept(one)

        monkeypatch.setattr(socket.socket, "accept", failing)
        assert (await live.get("/healthz"))[0] == 200
        assert failures == []

    monkeypatch.setattr("virtiod.http.security.connections._NO_FILES_S", 0.01)
    run_live(run_dir, test)


def test_a_unix_socket_that_was_handed_over_is_served_and_its_users_are_told_apart_by_their_ids(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "virtiod")
    path = run_dir / "http"
    tokens = written(run_dir / "tokens")

    async def run() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(5)
        daemon = Daemon(options(run_dir, http_tokens=tokens, http_rpc=True), {"http": listener})
        await daemon.start()
        try:
            assert await get_by_socket(path, "/healthz") == (200, "ok\n")
            for _ in range(int(FAILURES_AT_ONCE)):
                assert (await get_by_socket(path, "/metrics", Authorization="Bearer wrong"))[0] == 401
            assert (await get_by_socket(path, "/metrics", Authorization="Bearer wrong"))[0] == 429
            assert (await get_by_socket(path, "/metrics", Authorization=f"Bearer {READER}"))[0] == 200
            call = {"jsonrpc": "2.0", "id": 1, "method": "log_set_flag", "params": {"flag": "rpc"}}
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.post(
                    "http://localhost/rpc", json=call, headers={"Authorization": f"Bearer {ADMIN}"}
                ) as response,
            ):
                assert (await response.json())["result"] is True
        finally:
            await daemon.stop(10)

    asyncio.run(run())
    assert f"HTTP at unix:{path}" in caplog.text
    uid = os.getuid()
    assert f"GET /metrics from uid {uid}: wrong token" in caplog.text
    assert f"alice at pid {os.getpid()} uid {uid} (admin): log_set_flag" in caplog.text
    assert path.exists()  # it is not virtiod's to remove


def test_a_connection_that_can_not_be_served_costs_itself_only(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = Buckets.take

    def broken(*_: object) -> float:
        monkeypatch.setattr(Buckets, "take", real)
        raise ZeroDivisionError

    async def test(live: Live) -> None:
        monkeypatch.setattr(Buckets, "take", broken)
        with contextlib.suppress(ConnectionResetError):
            assert await live.send(b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        assert (await live.get("/healthz"))[0] == 200

    run_live(run_dir, test)
    assert "a connection was not served" in caplog.text
