"""TLS: who gets through, with which certificate, and what the others get."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import warnings
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.callers import AS_ADMIN, request, written
from tests.support.certificates import Certificates, certificates
from tests.support.http_server import Live, options, run_live
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import InvalidArgument
from virtiod.daemon.daemon import Daemon
from virtiod.http.security.tls import Tls, TlsFiles


def trusting(certs: Certificates, client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs.ca))
    if client:
        context.load_cert_chain(certs.client)
    return context


async def get(live: Live, context: ssl.SSLContext, path: str = "/healthz", **more: Any) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session,
        session.request(
            "POST" if more else "GET", f"https://127.0.0.1:{live.port}{path}", ssl=context, **more
        ) as answer,
    ):
        return answer.status, await answer.text()


async def refused(live: Live, context: ssl.SSLContext) -> str:
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)) as refusal:
        await get(live, context)
    return str(refusal.value)


def test_pages_and_calls_go_over_tls(run_dir: Path) -> None:
    certs = certificates(run_dir)

    async def test(live: Live) -> None:
        assert await get(live, trusting(certs)) == (200, "ok\n")
        status, text = await get(live, trusting(certs), "/rpc", json=request("log_get_level"), headers=AS_ADMIN)
        assert (status, '"result":"INFO"' in text) == (200, True)

    run_live(
        run_dir,
        test,
        http=("0.0.0.0", 0),  # tokens may leave the host now
        http_tls=TlsFiles(str(certs.server)),
        http_tokens=written(run_dir / "tokens"),
        http_rpc=True,
    )


def test_who_does_not_speak_it_as_needed_costs_its_own_connection_only(run_dir: Path) -> None:
    certs = certificates(run_dir)

    async def test(live: Live) -> None:
        assert "certificate verify failed" in await refused(live, ssl.create_default_context())
        old = trusting(certs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        assert "SSL" in await refused(live, old)
        with contextlib.suppress(ConnectionResetError):
            answer = await live.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in answer
        with contextlib.suppress(ConnectionResetError):
            await live.send(b"\x16\x03\x01\x02\x00\x01" + b"\xff" * 600)
        assert await get(live, trusting(certs)) == (200, "ok\n")

    run_live(run_dir, test, http_tls=TlsFiles(str(certs.server)))


def test_clients_need_a_certificate_where_that_is_asked_for(run_dir: Path) -> None:
    certs = certificates(run_dir)
    (run_dir / "other").mkdir()
    other = certificates(run_dir / "other", generation=1)

    async def test(live: Live) -> None:
        assert await get(live, trusting(certs, client=True)) == (200, "ok\n")
        await refused(live, trusting(certs))
        stranger = trusting(certs)
        stranger.load_cert_chain(other.client)
        await refused(live, stranger)
        assert await get(live, trusting(certs, client=True)) == (200, "ok\n")

    run_live(run_dir, test, http_tls=TlsFiles(str(certs.server), client_ca=str(certs.ca)))


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_go_on_is_cut_off(run_dir: Path, data: bytes) -> None:
    certs = certificates(run_dir)

    async def test(live: Live) -> None:
        live.http.connections.request_s = 0.1
        with contextlib.suppress(ConnectionResetError):
            assert await live.send(data) == b""
        await until(lambda: not live.http.connections, "the connection to be forgotten")

    run_live(run_dir, test, http_tls=TlsFiles(str(certs.server)))


def test_unfinished_handshakes_cannot_keep_others_out(run_dir: Path) -> None:
    certs = certificates(run_dir)

    async def test(live: Live) -> None:
        slow = [await asyncio.open_connection("127.0.0.1", live.port) for _ in range(150)]
        assert await get(live, trusting(certs)) == (200, "ok\n")
        for _, writer in slow:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    run_live(run_dir, test, http_tls=TlsFiles(str(certs.server)))


def test_a_renewed_certificate_is_used_from_the_next_connection_on(run_dir: Path) -> None:
    certs = certificates(run_dir)
    first = trusting(certs)

    async def test(live: Live) -> None:
        certificates(run_dir, generation=1)
        assert await get(live, first) == (200, "ok\n")
        live.http.reload()
        await refused(live, first)
        assert await get(live, trusting(certs)) == (200, "ok\n")
        certs.server.write_text("nonsense")
        with pytest.raises(InvalidArgument, match="not a certificate, or not that of the key"):
            live.http.reload()
        assert await get(live, trusting(certs)) == (200, "ok\n")

    run_live(run_dir, test, http_tls=TlsFiles(str(certs.server)))


@pytest.mark.programs
def test_files_that_do_not_fit_are_named(run_dir: Path) -> None:
    certs = certificates(run_dir)
    server = str(certs.server)
    encrypted = run_dir / "encrypted"
    subprocess.run(["openssl", "pkey", "-in", server, "-aes256", "-passout", "pass:x", "-out", encrypted], check=True)
    encrypted.chmod(0o600)
    certs.ca.chmod(0o644)
    for files, message in [
        (TlsFiles("/nowhere"), "--http-cert /nowhere: No such file or directory"),
        (TlsFiles(server, "/nowhere"), "--http-key /nowhere: No such file or directory"),
        (TlsFiles(server, str(certs.client)), f"--http-cert {server}: not a certificate, or not that of the key"),
        (TlsFiles(server, str(encrypted)), f"--http-cert {server}: "),
        (TlsFiles(server, client_ca="/nowhere"), "--http-client-ca /nowhere: No such file or directory"),
        (TlsFiles(str(certs.ca)), f"--http-cert {certs.ca}: mode 0644 lets others use it"),
    ]:
        with pytest.raises(InvalidArgument) as refusal:
            Tls(files)
        assert str(refusal.value).startswith(message)


def test_a_bad_certificate_fails_the_start_and_leaves_nothing(run_dir: Path) -> None:
    async def run() -> None:
        with pytest.raises(InvalidArgument, match="--http-cert /nowhere: No such file or directory"):
            await Daemon(options(run_dir, http_tls=TlsFiles("/nowhere"))).start()

    asyncio.run(run())
    assert list(run_dir.iterdir()) == []
