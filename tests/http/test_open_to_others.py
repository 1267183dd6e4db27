"""A warning where other hosts can read the pages without a token."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.callers import written
from tests.support.certificates import certificates
from tests.support.http_server import Live, run_live
from virtiod.http.security.tls import TlsFiles

OPEN = "without --http-tokens, everybody who reaches it can read metrics and the live page"


def warnings(run_dir: Path, caplog: pytest.LogCaptureFixture, host: str, **more: object) -> list[str]:
    async def test(live: Live) -> None:
        await asyncio.sleep(0)

    run_live(run_dir, test, http=(host, 0), **more)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_hosts_may_read_the_pages_and_the_log_says_so(
    run_dir: Path, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    (warning,) = warnings(run_dir, caplog, host)
    assert warning.startswith(f"{host} port ")
    assert OPEN in warning


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_loopback_there_is_no_warning(run_dir: Path, caplog: pytest.LogCaptureFixture, host: str) -> None:
    assert warnings(run_dir, caplog, host) == []


def test_with_tokens_or_certificates_there_is_no_warning(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run_dir / "certs").mkdir()
    certs = certificates(run_dir / "certs")
    tls = TlsFiles(str(certs.server))
    assert warnings(run_dir, caplog, "0.0.0.0", http_tls=tls, http_tokens=written(run_dir / "tokens")) == []
    asks = TlsFiles(str(certs.server), client_ca=str(certs.ca))
    assert warnings(run_dir, caplog, "0.0.0.0", http_tls=asks) == []
    (warning,) = warnings(run_dir, caplog, "0.0.0.0", http_tls=tls)
    assert OPEN in warning
