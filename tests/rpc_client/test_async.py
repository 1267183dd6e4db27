"""The asyncio client: calls at the same time, deadlines, ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rpc_client import Access, AsyncClient, BadReply, Client, ConnectFailed, ConnectionLost, MethodError, TimedOut
from tests.support.callers import ADMIN, READER, written
from tests.support.certificates import Certificates, certificates
from tests.support.daemon import FakeSystem, running
from tests.support.http_server import Live, run_live
from tests.support.rig import in_loop
from tests.support.rpc_server import scripted
from virtiod.daemon.daemon import Daemon
from virtiod.http.security.tls import TlsFiles

SLOW = {"name": "S", "trtype": "user", "traddr": "/slow", "dev_type": "blk"}


def with_client(run_dir: Path, use: Callable[[AsyncClient, FakeSystem], Awaitable[None]]) -> None:
    """Runs use(client, system) on a daemon."""

    async def run() -> None:
        system = FakeSystem()
        async with running(run_dir, system=system), AsyncClient(str(run_dir / "rpc")) as client:
            await use(client, system)

    asyncio.run(run())


def test_calls_and_their_errors(run_dir: Path) -> None:
    async def use(client: AsyncClient, _: FakeSystem) -> None:
        assert await client.call("log_get_level") == "INFO"
        with pytest.raises(MethodError, match=r"bdev_get_bdevs: bdev 'x' does not exist \(-19\)") as caught:
            await client.call("bdev_get_bdevs", {"name": "x"})
        assert caught.value.code == -19
        await client.close()
        assert await client.call("log_get_level") == "INFO"  # connects again

    with_client(run_dir, use)


def test_calls_at_the_same_time_share_a_connection_and_are_answered_as_they_end(run_dir: Path) -> None:
    async def run() -> None:
        system = FakeSystem()
        async with running(run_dir, system=system) as daemon, AsyncClient(str(run_dir / "rpc")) as client:
            slow = asyncio.create_task(client.call("bdev_virtio_attach_controller", SLOW))
            levels = await asyncio.gather(*(client.call("log_get_level") for _ in range(100)))
            assert (levels, slow.done()) == (["INFO"] * 100, False)
            assert len(daemon._server._connections) == 1
            system.fake_controllers.release.set()
            assert await slow == ["S"]

    asyncio.run(run())


def test_a_call_that_is_late_or_cancelled_disturbs_no_other(run_dir: Path) -> None:
    async def use(client: AsyncClient, system: FakeSystem) -> None:
        started = time.monotonic()
        with pytest.raises(TimedOut, match="bdev_virtio_attach_controller: no answer"):
            await client.call("bdev_virtio_attach_controller", SLOW, timeout_s=0.2)
        assert time.monotonic() - started >= 0.2
        cancelled = asyncio.create_task(client.call("bdev_virtio_attach_controller", {**SLOW, "name": "T"}))
        waits = asyncio.create_task(client.call("bdev_get_bdevs", {"name": "S", "timeout": 10_000}))
        assert await client.call("log_get_level") == "INFO"
        cancelled.cancel()
        system.fake_controllers.release.set()  # now the answers to both come
        assert [bdev["name"] for bdev in await waits] == ["S"]
        assert await client.call("log_get_level") == "INFO"

    with_client(run_dir, use)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b'{"jsonrpc":"2.0","result":1,"id":7}\n', BadReply),
        (b"hello\n", BadReply),
        (b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}\n', MethodError),
        (b'{"jsonrpc":"2.0","resu', ConnectionLost),
        (b"", ConnectionLost),
        (None, TimedOut),
    ],
)
def test_an_answer_that_is_none_is_an_error(run_dir: Path, answer: bytes | None, error: type[Exception]) -> None:
    async def ask(path: str) -> None:
        async with AsyncClient(path, timeout_s=0.3 if answer is None else 10) as client:
            with pytest.raises(error):
                await client.call("log_get_level")

    with scripted(run_dir, answer) as path:
        asyncio.run(ask(path))


def test_the_end_of_the_connection_ends_all_calls_and_the_next_one_connects_again(run_dir: Path) -> None:
    async def run() -> None:
        async with AsyncClient(str(run_dir / "rpc")) as client:
            daemon: Daemon
            async with running(run_dir) as daemon:
                waits = [asyncio.create_task(client.call("bdev_get_bdevs", {"name": "X", "timeout": 9999}))]
                waits.append(asyncio.create_task(client.call("bdev_get_bdevs", {"name": "Y", "timeout": 9999})))
                assert await client.call("log_get_level") == "INFO"
                await daemon._server.disconnect()
                for wait in waits:
                    with pytest.raises(ConnectionLost):
                        await wait
            async with running(run_dir):
                assert await client.call("log_get_level") == "INFO"

    asyncio.run(run())


def test_closing_ends_the_calls_that_wait(run_dir: Path) -> None:
    async def use(client: AsyncClient, _: FakeSystem) -> None:
        wait = asyncio.create_task(client.call("bdev_get_bdevs", {"name": "X", "timeout": 9999}))
        await client.call("log_get_level")
        await client.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await wait
        await client.close()

    with_client(run_dir, use)


@in_loop
async def test_nobody_there(run_dir: Path) -> None:
    for address, message in ((str(run_dir / "no"), "No such file"), ("http://127.0.0.1:1", "Connection refused")):
        async with AsyncClient(address) as client:
            with pytest.raises(ConnectFailed, match=message):
                await client.call("log_get_level")


# ---- URLs


@pytest.fixture
def certs(run_dir: Path) -> Certificates:
    (run_dir / "certs").mkdir()
    return certificates(run_dir / "certs")


def run_secure(run_dir: Path, certs: Certificates, test: Callable[[str], Awaitable[None]], client_ca: str = "") -> None:
    async def use(live: Live) -> None:
        await test(f"https://127.0.0.1:{live.port}")

    files = TlsFiles(str(certs.server), client_ca=client_ca)
    run_live(run_dir, use, http_rpc=True, http_tokens=written(run_dir / "tokens"), http_tls=files, log_level="ERROR")


def test_calls_over_https_with_a_token(run_dir: Path, certs: Certificates) -> None:
    async def test(url: str) -> None:
        async with AsyncClient(url, access=Access(token=ADMIN, ca=str(certs.ca))) as client:
            assert await client.call("bdev_null_create", {"name": "N0", "num_blocks": 8}) == "N0"
            names = await asyncio.gather(*(client.call("bdev_get_bdevs") for _ in range(5)))
            assert [bdev["name"] for bdevs in names for bdev in bdevs] == ["N0"] * 5
            with pytest.raises(TimedOut):
                await client.call("bdev_get_bdevs", {"name": "X", "timeout": 9999}, timeout_s=0.1)
        async with AsyncClient(url, access=Access(token=READER, ca=str(certs.ca))) as client:
            with pytest.raises(MethodError, match="needs the role admin") as caught:
                await client.call("bdev_null_delete", {"name": "N0"})
            assert caught.value.code == -13
        async with AsyncClient(url, access=Access(credentials=("alice", ADMIN), ca=str(certs.ca))) as client:
            assert await client.call("bdev_null_delete", {"name": "N0"}) is True

    run_secure(run_dir, certs, test)


def test_what_is_refused_is_said_in_one_line(run_dir: Path, certs: Certificates) -> None:
    async def test(url: str) -> None:
        for access, message in (
            (Access(ca=str(certs.ca)), f"{url}/rpc: 401 Unauthorized: a token is needed"),
            (Access(token=ADMIN), f"connect to {url}/rpc: CERTIFICATE_VERIFY_FAILED: "),
            (Access(token=ADMIN, ca="/nowhere"), f"{url}/rpc: [Errno 2] No such file or directory"),
        ):
            async with AsyncClient(url, access=access) as client:
                with pytest.raises(ConnectFailed) as caught:
                    await client.call("log_get_level")
            assert str(caught.value).startswith(message)
        async with AsyncClient("http://192.0.2.1", access=Access(token=ADMIN)) as client:
            with pytest.raises(ConnectFailed, match="a token is only sent over https, or to this host"):
                await client.call("log_get_level")

    run_secure(run_dir, certs, test)


def test_a_client_certificate_is_shown_where_one_is_needed(run_dir: Path, certs: Certificates) -> None:
    async def test(url: str) -> None:
        shown = Access(token=ADMIN, ca=str(certs.ca), cert=str(certs.client))
        async with AsyncClient(url, access=shown) as client:
            assert await client.call("log_get_level") == "ERROR"
        async with AsyncClient(url, access=Access(token=ADMIN, ca=str(certs.ca))) as client:
            with pytest.raises((ConnectFailed, ConnectionLost)):
                await client.call("log_get_level")

    run_secure(run_dir, certs, test, client_ca=str(certs.ca))


def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> bytes:
        asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.set_result(head.splitlines()[0])
            body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            answer = json.dumps({"jsonrpc": "2.0", "id": json.loads(body)["id"], "result": 7}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(answer), answer)
            )
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with AsyncClient("http://storage.invalid") as client:
                assert await client.call("m") == 7
        return await asked

    assert asyncio.run(run()) == b"POST http://storage.invalid/rpc HTTP/1.1"


@pytest.fixture
def crowded() -> Iterator[str]:
    """The URL of a listener that takes no more connections: the next one waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


def test_connecting_has_a_deadline_of_its_own(crowded: str) -> None:
    async def ask() -> None:
        async with AsyncClient(crowded, timeout_s=60, connect_timeout_s=0.2) as client:
            await client.call("log_get_level")

    started = time.monotonic()
    with pytest.raises(TimedOut, match="no answer from"):
        asyncio.run(ask())
    with pytest.raises(TimedOut, match="no answer from"), Client(crowded, connect_timeout_s=0.2) as client:
        client.call("log_get_level")
    assert time.monotonic() - started < 10
