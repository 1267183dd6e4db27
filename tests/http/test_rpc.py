"""JSON-RPC over HTTP: what is answered, to whom, and what is refused before it costs anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.callers import ADMIN, AS_ADMIN, AS_READER, READER, basic, request, written
from tests.support.http_server import Live, options, run_live
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import InvalidArgument
from virtiod.daemon.daemon import Daemon
from virtiod.http import rpc
from virtiod.http.rpc import MAX_BATCH, MAX_RUNNING
from virtiod.rpc.protocol.framer import MAX_REQUEST_BYTES


async def post(live: Live, body: Any, headers: dict[str, str] = AS_ADMIN, path: str = "/rpc") -> tuple[int, Any]:
    """Status, and the answer: JSON, text, or None when there is none."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
        session.post(f"http://127.0.0.1:{live.port}{path}", data=data, headers=headers) as answer,
    ):
        text = await answer.text()
        is_json = answer.content_type == "application/json"
        return answer.status, json.loads(text) if is_json else text or None


def run_rpc(run_dir: Path, test: Callable[[Live], Awaitable[None]], **more: Any) -> None:
    run_live(run_dir, test, http_rpc=True, http_tokens=written(run_dir / "tokens"), **more)


def running(live: Live) -> int:
    """Calls that run, which have no deadline."""
    return sum(one.deadline == float("inf") for one in live.http.connections._open.values())


def raw(head: bytes, body: bytes = b"", path: bytes = b"/rpc") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n\r\n%s" % (
        path,
        ADMIN.encode(),
        head,
        body,
    )


# ---- calls


def test_calls_batches_and_notifications_are_answered(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        status, answer = await post(live, request("bdev_null_create", 7, name="N0", num_blocks=8, block_size=512))
        assert (status, answer) == (200, {"jsonrpc": "2.0", "result": "N0", "id": 7})
        status, answer = await post(live, [request("log_get_level"), request("nothing", "b"), 3])
        assert status == 200
        assert [one.get("result", one.get("error", {}).get("code")) for one in answer] == ["INFO", -32601, -32600]
        assert await post(live, {"jsonrpc": "2.0", "method": "log_get_level"}) == (204, None)
        status, answer = await post(live, b' {"method":"log_get_level","id":null} \n')
        assert (status, answer["result"]) == (200, "INFO")

    run_rpc(run_dir, test)


def test_errors_of_methods_come_with_status_200_as_from_spdks_proxy(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        status, answer = await post(live, request("bdev_null_delete", name="none"))
        assert (status, answer["error"]["code"]) == (200, -19)

    run_rpc(run_dir, test)


def test_clients_of_spdks_proxy_work(run_dir: Path) -> None:
    """They post to / with Basic, and say nothing of the content's type."""

    async def test(live: Live) -> None:
        headers = {"Authorization": basic("alice", ADMIN), "Content-Type": "application/x-www-form-urlencoded"}
        status, answer = await post(live, {"method": "bdev_get_bdevs", "id": 1}, headers, "/")
        assert (status, answer["result"]) == (200, [])

    run_rpc(run_dir, test)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "0 values and 0 bytes more"),
        (b"hello", "expected an object or an array"),
        (b'{"method": "log_get_level"', "0 values and 26 bytes more"),
        (b"{}{}", "2 values and 0 bytes more"),
        (b"{}x", "expected an object or an array"),
        (b"\x1f\x8b\x08", "expected an object or an array"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[" * 100, "nested more than 64 levels deep"),
    ],
)
def test_what_is_no_json_gets_400(run_dir: Path, body: bytes, message: str) -> None:
    async def test(live: Live) -> None:
        status, answer = await post(live, body)
        assert (status, answer["error"]["code"], answer["id"]) == (400, -32700, None)
        assert message in answer["error"]["message"]

    run_rpc(run_dir, test)


def test_a_batch_is_bounded(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        status, answer = await post(live, [request("log_get_level")] * (MAX_BATCH + 1))
        assert (status, answer["error"]["code"]) == (400, -32600)
        status, answer = await post(live, [request("log_get_level")] * MAX_BATCH)
        assert (status, len(answer)) == (200, MAX_BATCH)

    run_rpc(run_dir, test)


# ---- who


def test_without_a_token_nothing_is_called(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": basic("alice", READER)}):
            status, _ = await post(live, request("bdev_null_create", name="N", num_blocks=8, block_size=512), headers)
            assert status == 401
        assert live.daemon.system.bdevs.list() == []

    run_rpc(run_dir, test)


def test_a_reader_may_look_and_change_nothing(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(live: Live) -> None:
        assert (await post(live, request("bdev_get_bdevs"), AS_READER))[1]["result"] == []
        create = request("bdev_null_create", name="N", num_blocks=8, block_size=512)
        status, answer = await post(live, create, AS_READER)
        assert status == 200
        assert answer["error"] == {
            "code": -13,
            "message": "bdev_null_create: needs the role admin, grafana is read-only",
        }
        assert live.daemon.system.bdevs.list() == []
        lines = [one.getMessage() for one in caplog.records if one.name == "virtiod.rpc.audit"]
        assert [line.split(":")[0] for line in lines] == ["grafana at 127.0.0.1 (read-only)"]

    caplog.set_level(logging.INFO)
    run_rpc(run_dir, test)


def test_it_is_off_unless_asked_for(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        assert (await post(live, request("log_get_level")))[0] == 404
        assert (await post(live, request("log_get_level"), path="/"))[0] == 405

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "--http-rpc needs --http-tokens"),
        ({"http": ("0.0.0.0", 0), "tokens": True}, "HTTP at 0.0.0.0 port 0: tokens would be sent unencrypted"),
        ({"http": ("::", 0), "tokens": True}, "HTTP at :: port 0: tokens would be sent unencrypted"),
    ],
)
def test_unsafe_ways_to_have_it_are_refused(run_dir: Path, more: dict[str, Any], message: str) -> None:
    if more.pop("tokens", False):
        more["http_tokens"] = written(run_dir / "tokens")

    async def run() -> None:
        with pytest.raises(InvalidArgument, match=message):
            await Daemon(options(run_dir, http_rpc=True, **more)).start()

    asyncio.run(run())


# ---- what it may cost


def test_a_long_body_is_refused_before_it_is_read(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(raw(b"Content-Length: 10000000", b"x"))  # and no more
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        answer = await live.send(raw(b"Transfer-Encoding: chunked", b"80000\r\n" + b" " * 0x80000 + b"\r\n"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer = await live.send(raw(b"Content-Length: %d" % (MAX_REQUEST_BYTES + 1), b" " * (MAX_REQUEST_BYTES + 1)))
        assert answer.startswith(b"HTTP/1.1 413 "), "it must not be lost with what was not read"

    run_rpc(run_dir, test)


def test_who_asks_before_sending_a_body_is_answered_before(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        body = json.dumps(request("log_get_level")).encode()
        answer = await live.send(raw(b"Expect: 100-continue\r\nContent-Length: %d" % len(body), body))
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
        answer = await live.send(raw(b"Expect: 100-continue\r\nContent-Length: 10000000"))
        assert answer.startswith(b"HTTP/1.1 413 ")
        wrong = raw(b"Expect: 100-continue\r\nContent-Length: 9").replace(ADMIN.encode(), b"wrong")
        assert (await live.send(wrong)).startswith(b"HTTP/1.1 401 ")

    run_rpc(run_dir, test)


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 2", b"{}", 415),
        (b"Transfer-Encoding: chunked", b"zz\r\n", 400),
        (b"Content-Length: -1", b"", 400),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"{}", 400),
    ],
)
def test_bodies_of_other_kinds_are_refused(run_dir: Path, head: bytes, body: bytes, status: int) -> None:
    async def test(live: Live) -> None:
        assert (await live.send(raw(head, body))).split(b" ", 2)[1] == b"%d" % status

    run_rpc(run_dir, test)


def test_a_slow_body_gets_408(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(live: Live) -> None:
        assert (await live.send(raw(b"Content-Length: 9", b"{"))).startswith(b"HTTP/1.1 408 ")

    monkeypatch.setattr(rpc, "REQUEST_S", 0.05)
    monkeypatch.setattr("virtiod.http.security.connections.DRAIN_S", 0.05)
    run_rpc(run_dir, test)


def test_a_caller_has_so_many_calls_running_and_others_are_not_held_up(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        wait = request("bdev_get_bdevs", name="N0", timeout=60000)
        waiting = [asyncio.create_task(post(live, wait, AS_READER)) for _ in range(MAX_RUNNING)]
        await until(lambda: running(live) == MAX_RUNNING, "calls to run")
        assert (await post(live, wait, AS_READER))[0] == 429
        create = request("bdev_null_create", name="N0", num_blocks=8, block_size=512)
        assert (await post(live, create))[0] == 200
        for status, answer in await asyncio.gather(*waiting):
            assert (status, answer["result"][0]["name"]) == (200, "N0")
        assert (await post(live, wait, AS_READER))[0] == 200

    run_rpc(run_dir, test)


def test_a_call_may_take_longer_than_a_page_and_ends_when_its_client_goes(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        body = json.dumps(request("bdev_get_bdevs", name="N0", timeout=60000)).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(raw(b"Content-Length: %d" % len(body), body))
        await until(lambda: running(live) == 1, "call to run")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await until(lambda: "bdev_get_bdevs" in live.daemon.rpc.timings.methods, "call to end")

    run_rpc(run_dir, test)


def test_no_path_leads_elsewhere(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for path in (
            b"/rpc/../../etc/passwd",
            b"/../etc/passwd",
            b"/rpc/%2e%2e/%2e%2e/etc/passwd",
            b"/..%2f..%2fetc/passwd",
            b"//etc/passwd",
            b"/rpc\\..\\x",
            b"/rpc%00",
        ):
            for verb in (b"GET", b"POST"):
                answer = await live.send(raw(b"Content-Length: 0", path=path).replace(b"POST", verb, 1))
                assert answer[9:12] in {b"404", b"400"}, (path, answer)
                assert b"root:" not in answer

    run_rpc(run_dir, test)
