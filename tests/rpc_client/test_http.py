"""`virtiod-rpc --url`: what an operator far away sees, when it works and when it does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rpc_client import AsyncClient, Client, ConnectFailed, cli
from rpc_client.url import NO_ANSWER, NO_TLS
from tests.support.callers import ADMIN, READER, written
from tests.support.certificates import Certificates, certificates
from tests.support.http_server import Live, live, run_live
from virtiod.http.security.tls import TlsFiles

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def certs(run_dir: Path) -> Certificates:
    (run_dir / "certs").mkdir()
    for name, token in (("admin", ADMIN), ("reader", READER), ("wrong", "x" * 20)):
        written(run_dir / name, f"{token}\n")
    return certificates(run_dir / "certs")


@pytest.fixture
def rpc(run_dir: Path, certs: Certificates, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit status, output and errors of virtiod-rpc, which trusts the daemon; by the token of a name, or None."""

    async def run(token: str | None, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        access = ["--token-file", str(run_dir / token)] if token else []
        status = await asyncio.to_thread(cli.main, ["--ca-file", str(certs.ca), *access, *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def run_secure(run_dir: Path, certs: Certificates, test: Callable[[Live], Awaitable[None]], ca: str = "") -> None:
    tokens = written(run_dir / "tokens")
    run_live(
        run_dir, test, http_rpc=True, http_tokens=tokens, http_tls=TlsFiles(str(certs.server), client_ca=ca),
        log_level="ERROR",
    )  # fmt: skip


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def url(live: Live) -> str:
    return f"https://127.0.0.1:{live.port}"


def test_every_command_goes_over_https(run_dir: Path, certs: Certificates, rpc: Run) -> None:
    async def test(live: Live) -> None:
        at = ("--url", url(live))
        assert await rpc("admin", *at, "bdev_null_create", "N0", "8") == (0, "N0\n", "")
        status, out, _ = await rpc("reader", *at, "bdev_get_bdevs")
        assert (status, out.splitlines()[1].split()[0]) == (0, "N0")
        status, out, _ = await rpc("reader", *at, "top", "-i", "0.01", "-n", "2")
        assert (status, out.count("READS/S")) == (0, 2)
        line = f"admin alice {ADMIN}"
        written(run_dir / "line", line)
        assert (await rpc("line", *at, "log_get_level"))[0] == 0
        written(run_dir / "basic", f"alice:{ADMIN}")
        assert (await rpc(None, *at, "--credentials", str(run_dir / "basic"), "log_get_level"))[0] == 0

    run_secure(run_dir, certs, test)


def test_what_is_refused_is_said_in_one_line(run_dir: Path, certs: Certificates, rpc: Run) -> None:
    async def test(live: Live) -> None:
        at = ("--url", url(live))
        for token, words, message in [
            (None, ("log_get_level",), "/rpc: 401 Unauthorized: a token is needed"),
            ("wrong", ("log_get_level",), "/rpc: 401 Unauthorized: a token is needed"),
            ("reader", ("log_set_level", "INFO"), "log_set_level: needs the role admin, grafana is read-only (-13)"),
            ("admin", ("call", "m", json.dumps({"a": "b" * 300_000})), "/rpc: 413 Request Entity Too Large: a request"),
        ]:
            status, out, err = await rpc(token, *at, *words)
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert message in err, err
        stranger = ("--ca-file", str(run_dir / "certs" / "client.pem"))
        status, _, err = await rpc("admin", *at, *stranger, "log_get_level")
        assert (status, "CERTIFICATE_VERIFY_FAILED: " in err) == (1, True), err
        status, _, err = await rpc("admin", "--url", url(live).replace("https", "http"), "log_get_level")
        assert (status, err.startswith(f"virtiod-rpc: connect to http://127.0.0.1:{live.port}/rpc: ")) == (1, True), err

    run_secure(run_dir, certs, test)


async def failures(url: str) -> list[str]:
    """What a call fails with, by the synchronous client and by that for asyncio."""

    def call() -> None:
        with Client(url) as client:
            client.call("bdev_get_bdevs")

    with pytest.raises(ConnectFailed) as first:
        await asyncio.to_thread(call)
    with pytest.raises(ConnectFailed) as second:
        async with AsyncClient(url) as client:
            await client.call("bdev_get_bdevs")
    return [str(first.value), str(second.value)]


def test_a_url_with_the_other_scheme_is_said_in_words(run_dir: Path, certs: Certificates) -> None:
    async def plain_to_tls(live: Live) -> None:
        at = f"http://127.0.0.1:{live.port}"
        assert await failures(at) == [f"connect to {at}/rpc: {NO_ANSWER}"] * 2

    async def tls_to_plain(live: Live) -> None:
        at = url(live)
        assert await failures(at) == [f"connect to {at}/rpc: {NO_TLS}"] * 2

    run_secure(run_dir, certs, plain_to_tls)
    run_live(run_dir, tls_to_plain, log_level="ERROR")


@pytest.mark.parametrize("answer", [bytes.fromhex("15030300020250"), b""])
def test_a_server_that_answers_no_http_is_said_in_words(answer: bytes) -> None:
    """As a server of TLS does with an alert."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            at = f"http://127.0.0.1:{port}"
            assert await failures(at) == [f"connect to {at}/rpc: {NO_ANSWER}"] * 2

    asyncio.run(run())


def test_a_client_certificate_is_shown_where_one_is_needed(run_dir: Path, certs: Certificates, rpc: Run) -> None:
    async def test(live: Live) -> None:
        at = ("--url", url(live))
        assert (await rpc("admin", *at, "--cert", str(certs.client), "log_get_level"))[0] == 0
        status, _, err = await rpc("admin", *at, "log_get_level")
        assert (status, err.count("\n")) == (1, 1)
        assert (await rpc(None, *at, "--cert", str(certs.client), "log_get_level"))[0] == 1, "it is no token"

    run_secure(run_dir, certs, test, ca=str(certs.ca))


def test_a_token_is_kept_from_others(run_dir: Path, certs: Certificates, rpc: Run) -> None:
    async def test() -> None:
        status, _, err = await rpc("admin", "--url", "http://192.0.2.1", "log_get_level")
        assert (status, err) == (
            1,
            "virtiod-rpc: http://192.0.2.1/rpc: a token is only sent over https, or to this host\n",
        )
        (run_dir / "admin").chmod(0o644)
        status, _, err = await rpc("admin", "log_get_level")
        assert (status, "mode 0644 lets others use it" in err) == (1, True)

    asyncio.run(test())


def test_a_configuration_is_saved_here_and_loaded_there(run_dir: Path, certs: Certificates, rpc: Run) -> None:
    async def test(first: Live) -> None:
        here = ("--url", url(first))
        assert (await rpc("admin", *here, "bdev_null_create", "N0", "8"))[0] == 0
        assert (await rpc("admin", *here, "nbd_create_export", "N0"))[0] == 0
        saved = str(run_dir / "saved.json")
        assert await rpc("reader", *here, "save_config", "-f", saved) == (0, "", "")
        status, out, _ = await rpc("reader", *here, "save_config")
        assert (status, json.loads(out)) == (0, read(saved))
        (run_dir / "second").mkdir()
        async with live(run_dir / "second", wait_for_rpc=True, log_level="ERROR") as second:
            there = ("-s", f"unix:{second.daemon.options.rpc_socket}")
            assert await rpc(None, *there, "load_config", "-f", saved) == (0, "", "")
            assert json.loads((await rpc(None, *there, "save_config"))[1]) == json.loads(out)
            assert await rpc(None, *there, "load_config", "-f", saved) == (0, "", ""), "it is so already"
            assert json.loads((await rpc(None, *there, "save_config"))[1]) == json.loads(out)
        (run_dir / "third").mkdir()
        async with live(run_dir / "third", log_level="ERROR") as third:
            there = ("-s", third.daemon.options.rpc_socket)
            status, out, _ = await rpc(None, *there, "load_config", "-f", saved)
            assert (status, out) == (0, "")  # bdev_set_options comes too late, and says what is so already
            fewer = {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 1024}}
            config = {"subsystems": [{"subsystem": "bdev", "config": [fewer]}]}
            written(run_dir / "saved.json", json.dumps(config))
            status, out, _ = await rpc(None, *there, "load_config", "-f", saved)
            assert (status, out) == (0, "not called, because the daemon is already initialised: bdev_set_options\n")
            written(run_dir / "saved.json", '{"subsystems": [] /* none */} // "')
            assert await rpc(None, *there, "load_config", "-f", saved) == (0, "", "")
            for content, message in [
                ("{}", "not a configuration: it has no array 'subsystems'"),
                ('{"subsystems": [{"subsystem": "bdev", "config": {}}]}', "'config' of a subsystem must be an array"),
                ('{"subsystems": [{"subsystem": "bdev", "config": [{}]}]}', "a call has no 'method'"),
                ('{"subsystems": [{"config": [[{"method": "m", "params": 1}]]}]}', "'params' of m must be an object"),
                (
                    '{"subsystems": [{"config": [{"method": "m"}]}]}',
                    "the daemon does not have these methods of the configuration: m",
                ),
            ]:
                written(run_dir / "saved.json", content)
                status, _, err = await rpc(None, *there, "load_config", "-f", saved)
                assert (status, message in err) == (1, True), err

    run_secure(run_dir, certs, test)
