"""What stands in front of every page: tokens, rates, and requests that other sites' pages have browsers make."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tests.support.callers import ADMIN, READER, basic, written
from tests.support.http_server import Live, run_live
from virtiod.http.security import auth
from virtiod.http.security.auth import FAILURES_AT_ONCE, REQUESTS_AT_ONCE

BEARER = {"Authorization": f"Bearer {READER}"}


@pytest.fixture(autouse=True)
def slow_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a bucket could fill again as fast as a test empties it."""
    monkeypatch.setattr(auth, "REQUESTS_PER_S", 0.01)
    monkeypatch.setattr(auth, "FAILURES_PER_S", 0.01)


def test_pages_need_a_token_and_health_does_not(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        assert (await live.get("/healthz"))[:2] == (200, "ok\n")
        for header in (f"Bearer {READER}", f"Bearer {ADMIN}", basic("grafana", READER)):
            assert (await live.get("/metrics", Authorization=header))[0] == 200
        for path in ("/metrics", "/healthz/", "/healthz/../metrics", "//healthz", "/none", "/"):
            status, text, headers = await live.get(path)
            assert status == 401, path
            assert "virtiod_" not in text
            assert headers["X-Content-Type-Options"] == "nosniff"

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))


def test_browsers_and_tools_are_told_how_to_show_one(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{live.port}/metrics") as answer:
            assert answer.headers.getall("WWW-Authenticate") == [
                'Basic realm="virtiod", charset="UTF-8"',
                'Bearer realm="virtiod"',
            ]

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))


def test_wrong_tokens_are_logged_without_the_token_and_slowed_down_and_right_ones_are_not(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(live: Live) -> None:
        answers = [
            await live.get("/metrics", Authorization=f"Bearer wrong{i}") for i in range(int(FAILURES_AT_ONCE) * 2)
        ]
        statuses = [status for status, *_ in answers]
        assert statuses[: int(FAILURES_AT_ONCE)] == [401] * int(FAILURES_AT_ONCE)
        assert statuses[-1] == 429
        assert int(answers[-1][2]["Retry-After"]) >= 1
        for _ in range(3):
            assert (await live.get("/metrics", **BEARER))[0] == 200  # of the same address
            assert (await live.get("/metrics", Authorization="Bearer wrong"))[0] == 429
        assert (await live.get("/healthz"))[0] == 200
        told = [record.getMessage() for record in caplog.records if "wrong token" in record.getMessage()]
        assert told[0] == "GET /metrics from 127.0.0.1: wrong token"
        assert len(told) == statuses.count(401)

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))


def test_asking_without_a_token_is_no_wrong_guess(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        for _ in range(int(FAILURES_AT_ONCE) * 2):
            assert (await live.get("/metrics"))[0] == 401
        assert (await live.get("/metrics", **BEARER))[0] == 200

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))


@pytest.mark.parametrize("with_tokens", [False, True])
def test_who_asks_too_often_is_told_when_to_come_back(run_dir: Path, with_tokens: bool) -> None:
    async def test(live: Live) -> None:
        for _ in range(int(REQUESTS_AT_ONCE) * 4):
            status, _, headers = await live.get("/none", **BEARER)
            if status == 429:
                break
        assert status == 429
        assert int(headers["Retry-After"]) >= 1
        if with_tokens:  # another caller at the same address is not held up
            assert (await live.get("/none", Authorization=f"Bearer {ADMIN}"))[0] == 404

    run_live(run_dir, test, **({"http_tokens": written(run_dir / "tokens")} if with_tokens else {}))


def test_requests_that_other_sites_have_a_browser_make_are_refused(run_dir: Path) -> None:
    async def test(live: Live) -> None:
        own = f"http://127.0.0.1:{live.port}"
        for sender, expected in [(own, 200), ("http://evil.example", 403), ("null", 403), ("", 403)]:
            assert (await live.get("/metrics", Origin=sender, **BEARER))[0] == expected, sender

    run_live(run_dir, test, http_tokens=written(run_dir / "tokens"))
