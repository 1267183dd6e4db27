"""The socket and the protocol, seen by a client that knows what it wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clocks import Stopwatch, threads
from tests.support.daemon import FakeDaemon, FakeSystem, running
from tests.support.rpc_peer import Peer, connected
from tests.support.waiting import until
from virtiod.api.caller import Caller
from virtiod.core.errors import Busy, ConnectError, InvalidArgument
from virtiod.rpc.protocol.dispatcher import Dispatcher
from virtiod.rpc.protocol.server import RpcServer


def error_of(response: Any) -> tuple[int, str]:
    return response["error"]["code"], response["error"]["message"]


Conversation = Callable[[Peer, FakeDaemon], Awaitable[None]]


def talk(run_dir: Path, conversation: Conversation | None, **options: Any) -> None:
    """Runs conversation(peer, daemon) on a connection; None: only connects."""

    async def run() -> None:
        async with running(run_dir, **options) as daemon, connected(run_dir) as peer:
            if conversation is not None:
                await conversation(peer, daemon)

    asyncio.run(run())


# ---- requests and responses


@pytest.mark.parametrize("request_id", [0, 7, -1, 1.5, "text", "", None])
def test_the_answer_has_the_id_of_the_request(run_dir: Path, request_id: object) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        response = await peer.ask("log_get_level", request_id=request_id)
        assert response == {"jsonrpc": "2.0", "result": "INFO", "id": request_id}

    talk(run_dir, ask)


def test_the_version_member_may_be_left_out(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send({"method": "log_get_level", "id": 1})
        assert (await peer.receive())["result"] == "INFO"

    talk(run_dir, ask)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ([], -32600, "the batch is empty"),
        ({}, -32600, '"method" must be a string'),
        ({"method": 1, "id": 1}, -32600, '"method" must be a string'),
        ({"method": "log_get_level", "id": 1, "jsonrpc": "1.0"}, -32600, '"jsonrpc" must be "2.0"'),
        ({"method": "log_get_level", "id": 1, "jsonrpc": None}, -32600, '"jsonrpc" must be "2.0"'),
        ({"method": "log_get_level", "id": True}, -32600, '"id" must be'),
        ({"method": "log_get_level", "id": [1]}, -32600, '"id" must be'),
        ({"method": "log_get_level", "id": 1, "params": "x"}, -32600, '"params" must be an object'),
        ({"method": "log_get_level", "id": 1, "more": 1}, -32600, "unknown member 'more'"),
        ({"method": "log_get_level", "id": 1, "params": [1]}, -32602, "params must be an object"),
        ({"method": "no_such_method", "id": 1}, -32601, "Method not found"),
        ({"method": "log_set_level", "id": 1}, -32602, "missing parameter 'level'"),
    ],
)
def test_a_request_that_is_wrong_is_answered_with_what_is_wrong(
    run_dir: Path, request_: object, code: int, message: str
) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send(request_)
        response = await peer.receive()
        assert error_of(response)[0] == code
        assert message in error_of(response)[1]
        valid = isinstance(request_, dict) and type(request_.get("id")) is int
        assert response["id"] == (1 if valid else None)
        assert await peer.result("log_get_level") == "INFO"  # the connection goes on

    talk(run_dir, ask)


def test_params_may_be_null_or_empty(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        every: tuple[object, ...] = (None, {}, [])
        for params in every:
            await peer.send({"method": "log_get_level", "id": 1, "params": params})
            assert (await peer.receive())["result"] == "INFO"

    talk(run_dir, ask)


def test_a_notification_is_carried_out_and_not_answered(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        await peer.send({"method": "log_set_print_level", "params": {"level": "ERROR"}})
        await peer.send({"method": "log_get_print_level", "id": 2})
        assert await peer.receive() == {"jsonrpc": "2.0", "result": "ERROR", "id": 2}

    talk(run_dir, ask)


def test_the_error_of_a_notification_is_sent_with_a_null_id(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send({"method": "log_set_level", "params": {"level": "LOUD"}})
        response = await peer.receive()
        assert response["id"] is None
        assert error_of(response)[0] == -32602

    talk(run_dir, ask)


def test_a_batch_is_answered_by_one_array_in_its_order(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send(
            [
                {"method": "bdev_virtio_attach_controller", "params": {}, "id": "a"},
                {"method": "log_get_level", "id": "b"},
                7,
                {"method": "log_get_level"},
                {"method": "nothing", "id": "c"},
            ]
        )
        responses = await peer.receive()
        assert [response["id"] for response in responses] == ["a", "b", None, "c"]
        assert [response.get("error", {}).get("code") for response in responses] == [-32603, None, -32600, -32601]

    talk(run_dir, ask)


def test_a_batch_of_notifications_is_not_answered(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send([{"method": "log_get_level"}] * 3)
        assert await peer.result("log_get_level") == "INFO"

    talk(run_dir, ask)


def test_many_requests_in_one_piece_are_all_answered(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send(
            b"".join(json.dumps({"method": "log_get_level", "id": i}, indent=2).encode() for i in range(1000))
        )
        assert {(await peer.receive())["id"] for _ in range(1000)} == set(range(1000))

    talk(run_dir, ask)


def test_a_slow_method_delays_no_other_on_the_same_connection(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        slow = {"name": "S", "trtype": "user", "traddr": "/slow", "dev_type": "blk"}
        await peer.send({"method": "bdev_virtio_attach_controller", "params": slow, "id": "slow"})
        assert await peer.result("log_get_level") == "INFO"
        daemon.fakes.fake_controllers.release.set()
        assert await peer.receive() == {"jsonrpc": "2.0", "result": ["S"], "id": "slow"}

    talk(run_dir, ask)


@pytest.mark.parametrize("garbage", [b"}", b"[1,}", b'["\xff"]', b"[" * 100, b"[" + b"1," * 9000])
def test_what_is_not_json_is_answered_once_and_ends_the_connection(run_dir: Path, garbage: bytes) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.send(b'{"method":"log_get_level","id":1}' + garbage)
        assert (await peer.receive())["result"] == "INFO"
        response = await peer.receive()
        assert error_of(response)[0] == -32700
        assert response["id"] is None
        assert await peer.receive() is None

    talk(run_dir, ask)


def test_a_request_of_more_than_256_kib_ends_the_connection(run_dir: Path) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        with contextlib.suppress(OSError):
            await peer.send(b'{"method":"' + b"x" * 300_000)
        assert "longer than 262144 bytes" in error_of(await peer.receive())[1]
        assert await peer.receive() is None

    talk(run_dir, ask)


def test_a_client_that_sends_no_more_still_gets_its_answers(run_dir: Path) -> None:
    async def ask(peer: Peer, daemon: FakeDaemon) -> None:
        slow = {"name": "S", "trtype": "user", "traddr": "/slow", "dev_type": "blk"}
        await peer.send({"method": "bdev_virtio_attach_controller", "params": slow, "id": 1})
        peer.writer.write_eof()
        await until(lambda: daemon.rpc._running)
        daemon.fakes.fake_controllers.release.set()
        assert (await peer.receive())["result"] == ["S"]
        assert await peer.receive() is None

    talk(run_dir, ask)


def test_what_a_client_that_went_away_began_comes_to_its_end(run_dir: Path) -> None:
    async def run() -> None:
        system = FakeSystem()
        async with running(run_dir, system=system) as daemon:
            async with connected(run_dir) as peer:
                slow = {"name": "S", "trtype": "user", "traddr": "/slow", "dev_type": "blk"}
                await peer.send({"method": "bdev_virtio_attach_controller", "params": slow, "id": 1})
                await until(lambda: daemon.rpc._running)
            await until(lambda: not daemon._server._connections)
            system.fake_controllers.release.set()
            await until(lambda: not daemon.rpc._running)
            assert [bdev.name for bdev in daemon.system.bdevs.list()] == ["S"]

    asyncio.run(run())


def test_waiting_ends_with_the_client_that_waits(run_dir: Path) -> None:
    async def run() -> None:
        async with running(run_dir) as daemon:
            async with connected(run_dir) as peer:
                await peer.send({"method": "bdev_get_bdevs", "params": {"name": "X", "timeout": 3600_000}, "id": 1})
                await until(lambda: daemon._server._connections)
            await until(lambda: not daemon._server._connections)

    asyncio.run(run())


# ---- connections


class Answering(Dispatcher):
    """Answers whatever is asked with what a function makes of it."""

    def __init__(self, answer: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__({})
        self._make = answer

    async def handle(self, value: Any, caller: Caller) -> dict[str, Any]:
        return self._make(value)


def test_a_client_that_takes_no_answers_loses_its_connection_and_nobody_else_notices(run_dir: Path) -> None:
    async def run() -> None:
        dispatcher = Answering(answer)
        server = RpcServer(str(run_dir / "rpc"), dispatcher, write_timeout_s=0.2)
        server.claim()
        await server.start()
        try:
            async with connected(run_dir) as deaf, connected(run_dir) as peer:
                deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
                await deaf.send({"size": 8 << 20})
                await peer.send({"size": 1})
                assert await peer.receive() == {"result": "x"}
                await until(lambda: len(server._connections) == 1)
        finally:
            await server.close()

    def answer(value: Any) -> dict[str, Any]:
        return {"result": "x" * value["size"]}

    asyncio.run(run())


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(run_dir: Path) -> None:
    size = 3 << 20

    async def run() -> int:
        dispatcher = Answering(answer)
        server = RpcServer(str(run_dir / "rpc"), dispatcher, write_timeout_s=1.0)
        server.claim()
        await server.start()
        received = 0
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, str(run_dir / "rpc"))
                await loop.sock_sendall(client, b"{}")
                started = time.monotonic()
                while received < size + 13:
                    received += len(await loop.sock_recv(client, 256 << 10))
                    await asyncio.sleep(0.1)  # the client's slowness is what is tested
                assert time.monotonic() - started > 1.0
        finally:
            await server.close()
        return received

    def answer(_: object) -> dict[str, Any]:
        return {"result": "x" * size}

    assert asyncio.run(run()) == size + len('{"result":""}\n')


def test_the_65th_connection_is_refused_and_the_others_work(run_dir: Path) -> None:
    async def run() -> None:
        async with running(run_dir) as daemon, contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(connected(run_dir)) for _ in range(64)]
            await until(lambda: len(daemon._server._connections) == 64)
            async with connected(run_dir) as extra:
                assert "too many connections (64)" in error_of(await extra.receive())[1]
                assert await extra.receive() is None
            for peer in peers:
                assert await peer.result("log_get_level") == "INFO"

    asyncio.run(run())


def test_the_peer_is_logged(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def ask(peer: Peer, _: FakeDaemon) -> None:
        await peer.result("log_get_level")

    with caplog.at_level(logging.INFO, "virtiod"):
        talk(run_dir, ask)
    assert f"RPC client pid={os.getpid()} uid={os.getuid()} gid={os.getgid()} connected" in caplog.text


# ---- the socket


def test_only_the_owner_may_connect(run_dir: Path) -> None:
    async def look(_: Peer, __: FakeDaemon) -> None:
        assert stat.S_IMODE((run_dir / "rpc").stat().st_mode) == 0o600
        assert stat.S_IMODE((run_dir / "rpc.lock").stat().st_mode) == 0o600

    talk(run_dir, look)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_a_group_may_connect_if_asked(run_dir: Path) -> None:
    async def look(_: Peer, __: FakeDaemon) -> None:
        status = (run_dir / "rpc").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, 1)

    talk(run_dir, look, rpc_group="daemon")


def test_a_group_that_there_is_not_is_named(run_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no group 'nobodies'"):
        talk(run_dir, None, rpc_group="nobodies")
    assert list(run_dir.iterdir()) == []


def test_a_second_daemon_is_told_that_the_socket_is_in_use(run_dir: Path) -> None:
    async def second(peer: Peer, _: FakeDaemon) -> None:
        with pytest.raises(Busy, match="rpc is in use by another process"):
            async with running(run_dir):
                pass
        assert await peer.result("log_get_level") == "INFO"

    talk(run_dir, second)


@pytest.mark.programs
def test_what_a_killed_daemon_left_is_replaced(run_dir: Path) -> None:
    program = (
        "import os, socket, sys; from virtiod.rpc.protocol.server import SocketLock;"
        "lock = SocketLock(sys.argv[1]); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(run_dir / "rpc")], check=False)
    assert (run_dir / "rpc").is_socket()

    async def ask(peer: Peer, _: FakeDaemon) -> None:
        assert await peer.result("log_get_level") == "INFO"

    talk(run_dir, ask)
    assert list(run_dir.iterdir()) == []


def test_a_file_that_is_no_socket_is_left_alone(run_dir: Path) -> None:
    (run_dir / "rpc").write_text("precious")
    with pytest.raises(InvalidArgument, match="exists and is not a socket"):
        talk(run_dir, None)
    assert (run_dir / "rpc").read_text() == "precious"


def test_a_path_that_cannot_be_is_named(run_dir: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"no-such-directory/rpc\.lock: No such file"):
        talk(run_dir / "no-such-directory", None)
    long = run_dir / ("d" * 100)
    long.mkdir()
    with pytest.raises(ConnectError, match="path too long"):
        talk(long, None)


# ---- load


def test_answers_under_many_calls_are_prompt(run_dir: Path) -> None:
    """Not a benchmark: a method that blocked the loop, or quadratic work, would show."""

    async def ask(peer: Peer, _: FakeDaemon) -> None:
        clock = Stopwatch(threads())
        for _number in range(300):
            await peer.result("thread_get_stats")
        assert clock.own_s() < 10

    talk(run_dir, ask)
