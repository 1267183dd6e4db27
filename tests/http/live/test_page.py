"""The live page in a real browser, on a daemon under load.

VIRTIOD_SCREENSHOTS=DIR python -m pytest tests/http/live/test_page.py -k pictures    # leaves its pictures there
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from hashlib import sha256
from operator import eq, ne
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, Page
from tests.support.http_server import Live, live
from tests.support.peers import Peer
from tests.support.process import of_json, target
from tests.support.waiting import LOAD_S, PATIENCE_S, until
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.http import pages
from virtiod.http.app import create_app
from virtiod.http.server import HttpServer
from virtiod.load.workload import Workload

pytestmark = pytest.mark.programs

VENDORED = pages.FOLDER / "vendor" / "uplot"
DEPTH = 6

# The contrast of each piece of text with what is behind it (WCAG 2.2, 1.4.3): those below 4.5.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => colour.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (where) => {
    for (let at = where; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const where = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !where.checkVisibility()) continue;
    if (["SCRIPT", "NOSCRIPT"].includes(where.tagName)) continue;
    const [a, b] = [light(rgb(getComputedStyle(where).color)), light(behind(where))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([where.outerHTML.slice(0, 80), ratio]);
  }
  return found;
})()"""

FIND = "(one => {{ one.value = '{}'; one.dispatchEvent(new Event('input')) }})(document.querySelector('#find'))"

FOCUSED = """(() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const name = at.id || at.getAttribute("aria-label") || at.textContent;
  const box = at.closest("table")?.parentElement.id;
  return { name: box ? `${box}: ${name}` : name, seen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
})()"""


def text(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})?.textContent"


def cell(table: str, name: str) -> str:
    """The text of a column's first cell."""
    return text(f"#{table} tbody td[data-name='{name}']")


@contextlib.asynccontextmanager
async def loaded(run_dir: Path, running: Live, peer: Peer) -> AsyncIterator[None]:
    """Two controllers, an export and a load on the first disk."""
    for name, path in (("V0", peer.socket), ("V1", run_dir / "t1.sock")):
        await running.daemon.system.controllers.attach(AttachRequest(name, "user", str(path), "blk", None, None))
    await running.daemon.system.exports.of(NbdExports).create("V0", "disk")
    workload = Workload(rw="randrw", rw_mix_read=70, queue_depth=DEPTH, time_s=LOAD_S)
    load = asyncio.create_task(running.daemon.system.load.run(["V0"], workload))
    try:
        yield
    finally:
        load.cancel()
        detaching = (
            running.daemon.system.controllers.detach(name) for name in ("V0", "V1")
        )  # ends what a lost target holds
        await asyncio.gather(load, *detaching, return_exceptions=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for all tests of this page."""
    with (
        tempfile.TemporaryDirectory(prefix="v-", dir="/tmp") as folder,
        Browser.started(Path(folder)) as browser,
    ):
        yield browser


def run_page(run_dir: Path, chromium: Browser, test: Callable[[Live, Page, Peer], Awaitable[None]]) -> None:
    """Runs a test with the page open, on a daemon of its own under load."""

    async def run(peer: Peer) -> None:
        async with live(run_dir) as running, loaded(run_dir, running, peer), chromium.tab() as page:
            await page.size(1280, 900)
            await page.open(f"http://127.0.0.1:{running.port}/")
            await page.until(f"{text('#link')} === 'Live' && {cell('bdevs', 'Depth')} === '{DEPTH}'")
            await test(running, page, peer)

    # A third of the I/O is slow: a load for the eye, that leaves the processor to others.
    with target(run_dir, "--memory", "16M", "--fault", "delay,every=3,delay=3000", count=2) as peer:
        asyncio.run(run(peer))


def test_charts_and_figures_follow_without_a_reload(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        await page.js("window.here = true")
        for chart in ("iops", "throughput", "depth", "latency"):
            drawn = f"document.querySelector('#{chart} canvas').toDataURL()"
            before = await page.js(drawn)
            await page.until(drawn, fits=partial(ne, before))
        about = await page.js(text("#about"))
        await page.until(text("#about"), fits=lambda now: now != about)
        assert await page.js("window.here")
        assert await page.js(text("#controllers .badge")) == "up"
        assert re.fullmatch(r"busy [\d.]+ %, idle [\d.]+ %, sleep [\d.]+ %", await page.js(cell("pollers", "Time")))
        assert page.complaints == []

    run_page(run_dir, chromium, test)


def test_figures_are_those_of_the_rpc(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        async def iostat() -> dict[str, Any]:
            answer = await running.daemon.rpc.call("bdev_get_iostat", {"names": ["V0"]})
            (bdev,) = answer["bdevs"]
            return of_json(bdev)

        await page.js(
            "window.sums = [0, 0]; window.stream = new EventSource('/live?bdev=V0');"
            "stream.addEventListener('sample', ({ data }) => {"
            "  const { cell } = JSON.parse(data);"
            "  if (window.at) [1, 2].forEach((each) => { sums[each - 1] += cell[each] * (cell[0] - at); });"
            "  window.first ??= cell[0]; window.at = cell[0]; window.seen = (window.seen ?? 0) + 1;"
            "})"
        )

        async def sums() -> list[float]:
            """What the page counted until a sample that was taken after this was called."""
            seen = await page.js("window.seen ?? 0")
            await page.until(f"window.seen > {seen + 1}")
            return list(await page.js("sums"))

        # The page's figures are of some time between the outer calls, which holds all that is between the inner ones.
        before, first = await iostat(), await sums()
        inner = await iostat()
        await page.until(f"window.seen > {await page.js('seen')} + 1")
        inner_end = await iostat()
        last, after = await sums(), await iostat()
        for index, key in enumerate(("num_read_ops", "num_write_ops")):
            shown = last[index] - first[index]
            assert 0.99 * (inner_end[key] - inner[key]) <= shown <= 1.01 * (after[key] - before[key]), key
        assert 0 < after["queue_depth"] <= DEPTH
        await page.until(f"{cell('bdevs', 'Depth')} === '{DEPTH}'")
        await page.js("stream.close()")

    run_page(run_dir, chromium, test)


def test_the_history_is_there_when_the_page_opens(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        await until(lambda: running.feed.sampler.second >= 4, "some seconds have passed")
        await page.js("window.rows = 0")
        await page.js(
            "window.stream = new EventSource('/live'); stream.addEventListener('history', ({ data }) => {"
            "window.rows = JSON.parse(data).cells.filter((cell) => cell[1] > 0).length; stream.close() })"
        )
        assert await page.until("window.rows") >= 2

    run_page(run_dir, chromium, test)


def test_a_killed_target_shows(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, peer: Peer) -> None:
        assert await page.js("document.querySelector('#trouble').hidden")
        await asyncio.to_thread(peer.kill)
        await page.until(f"{text('#controllers .badge')} === 'reconnecting'")
        assert await page.js(text("#trouble")) == "2 of 2 controllers are down." or await page.until(
            f"{text('#trouble')} === '2 of 2 controllers are down.'"
        )
        assert "reconnecting" in await page.js(text("#announce"))
        assert await page.js("document.querySelector('#controllers .badge').dataset.kind") == "bad"
        await page.until("document.querySelector(\"#bdevs td[data-name='Oldest']\").classList.contains('bad')")
        assert await page.js(cell("bdevs", "Depth")) == str(DEPTH)  # what was in flight waits
        assert page.complaints == []

    run_page(run_dir, chromium, test)


def test_one_bdev_can_be_chosen_and_tables_be_searched(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        tile = text("#tiles dd")
        await page.until(f"{tile} !== '0'")
        await page.js("[...document.querySelectorAll('.pick')].find((one) => one.textContent === 'V1').click()")
        await page.until(f"{tile} === '0'")
        assert await page.js("[document.querySelector('#bdev').value, location.hash]") == ["V1", "#bdev=V1"]
        await page.js(FIND.format("v0"))
        await page.until("document.querySelectorAll('#bdevs tbody tr').length === 1")
        await page.call("Page.reload")
        await page.until("document.querySelectorAll('#bdevs tbody tr').length === 1 && bdev.value === 'V1'")
        await page.js("bdev.value = ''; bdev.dispatchEvent(new Event('change'))")
        await page.until(f"{tile} !== '0'")
        await page.js("location.replace('#bdev=none')")
        await page.until(f"{text('#trouble')} === 'Bdev none does not exist.'")
        assert page.complaints == []

    run_page(run_dir, chromium, test)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        seen: list[dict[str, Any]] = []
        await page.js("document.body.focus()")
        for _ in range(120):
            await page.press("Tab")
            focus = await page.js(FOCUSED)
            if focus is None or (seen and focus == seen[0]):
                break
            seen.append(focus)
        names = [focus["name"] for focus in seen]
        assert [focus for focus in seen if not focus["seen"]] == []
        first = ["Skip to the charts and tables", "pause", "bdev", "find", "iops-plot", "throughput-plot", "depth-plot"]
        assert names[:8] == [*first, "latency-plot"]
        for wanted in (
            "bdevs: IOPS",
            "bdevs: V0",
            "bdevs: V1",
            "controllers: State",
            "exports: Connections",
            "pollers: Core",
        ):
            assert wanted in names
        assert names[-2:] == ["Metrics", "Health"]
        buttons = await page.js(
            "[...document.querySelectorAll('button, select, input, a[href], [tabindex=\"0\"]')].length"
        )
        assert len(seen) == buttons

        await page.js("document.querySelector('#bdevs thead button').focus()")
        for order in ("ascending", "descending", "none"):
            await page.press("Enter")
            assert await page.js("document.querySelector('#bdevs th').getAttribute('aria-sort')") == order
        await page.js("document.querySelectorAll('.pick')[1].focus()")
        picked = await page.js("document.activeElement.textContent")
        second = running.feed.sampler.second
        await until(lambda: running.feed.sampler.second > second + 2, "two more samples")
        assert await page.js("document.activeElement.textContent") == picked  # its row was not taken away

        await page.js("document.querySelector('#iops-plot').focus()")
        assert await page.js(text("#latency .at")) == ""
        await page.press("ArrowLeft")
        for chart in ("iops", "throughput", "depth", "latency"):
            assert re.fullmatch(r"\d\d:\d\d:\d\d", await page.js(text(f"#{chart} .at")))
        await page.press("Escape")
        assert await page.js(text("#latency .at")) == ""

        await page.js("pause.focus()")
        await page.press(" ")
        assert await page.js(text("#link")) == "Paused"
        about = await page.js(text("#about"))
        second = running.feed.sampler.second
        await until(lambda: running.feed.sampler.second > second + 2, "two more samples")
        assert await page.js(text("#about")) == about
        await page.press(" ")
        await page.until(f"{text('#link')} === 'Live'")

    run_page(run_dir, chromium, test)


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2560])
def test_no_width_needs_to_scroll_sideways(run_dir: Path, chromium: Browser, width: int) -> None:
    async def test(_running: Live, page: Page, _peer: Peer) -> None:
        await page.size(width, 844, width < 768)
        await page.until("document.querySelector('#iops canvas').getBoundingClientRect().right <= innerWidth")
        await page.until("document.documentElement.scrollWidth", fits=partial(eq, width))
        texts = "[...document.querySelectorAll('dd, #link, h1, .legend li')]"
        cut = f"{texts}.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.outerHTML)"
        await page.until(cut, fits=partial(eq, []))

    run_page(run_dir, chromium, test)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_either_scheme(run_dir: Path, chromium: Browser, scheme: str) -> None:
    async def test(_running: Live, page: Page, peer: Peer) -> None:
        await page.prefer(prefers_color_scheme=scheme)
        back = await page.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back))) < 128) == (scheme == "dark")
        assert await page.js(CONTRAST) == []
        await page.js("document.querySelector('.pick').click()")
        await asyncio.to_thread(peer.kill)
        await page.until("document.querySelector('#bdevs .bad') && !document.querySelector('#trouble').hidden")
        assert await page.js(CONTRAST) == []

    run_page(run_dir, chromium, test)


def test_a_lost_server_shows_and_the_page_finds_it_again(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        await page.prefer(prefers_reduced_motion="no-preference")
        await running.http.stop()
        await page.until(f"{text('#link')} === 'No connection'")
        motion = "getComputedStyle(document.querySelector('#link'), '::before').animationName"
        assert await page.js(motion) == "pulse"
        await page.prefer(prefers_reduced_motion="reduce")
        assert await page.js(motion) == "none"
        daemon = running.daemon
        second = HttpServer(create_app(daemon.system, daemon.rpc, daemon.health), "127.0.0.1", running.port)
        await second.start()
        await page.until(f"{text('#link')} === 'Live'")
        await second.stop()

    run_page(run_dir, chromium, test)


def test_a_thousand_bdevs_are_fifty_rows(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        for number in range(1000):
            running.add_null(f"Null{number}")
        await page.until("document.querySelectorAll('#bdevs tbody tr').length === 50")
        assert await page.js(text("#bdevs .note")) == "Shows 50 of 1002, busiest first. Use Find to see others."
        assert await page.js(text("#bdevs .pick")) == "V0"
        await page.js(FIND.format("null777"))
        await page.until(f"{text('#bdevs .pick')} === 'Null777'")
        assert page.complaints == []

    run_page(run_dir, chromium, test)


def test_names_are_text_and_nothing_else(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        evil = "<img src=x onerror=window.hit=1>\"'&</script>"
        running.add_null(evil)
        await page.until(
            f"[...document.querySelectorAll('.pick')].some((one) => one.textContent === {json.dumps(evil)})"
        )
        assert await page.js("window.hit ?? document.querySelectorAll('main img').length") == 0
        assert page.complaints == []

    run_page(run_dir, chromium, test)


def test_the_policy_forbids_what_the_page_does_not_need(run_dir: Path, chromium: Browser) -> None:
    async def test(running: Live, page: Page, _peer: Peer) -> None:
        await page.js(
            "const made = document.createElement('style'); made.textContent = 'a{}'; document.head.append(made)"
        )
        await page.js("fetch('http://127.0.0.1:9/').catch(() => 0)")
        await page.js("(() => { try { document.body.innerHTML = 'x' } catch { window.refused = true } })()")
        assert await page.js("window.refused")
        for wanted in ("style-src", "connect-src"):  # the browser tells them in its own time
            await until(partial(complained, page, wanted), f"a complaint of {wanted}")
        _, _, headers = await running.get("/")
        for wanted in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
            assert wanted in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"

    run_page(run_dir, chromium, test)


def complained(page: Page, of: str) -> bool:
    return any(of in one for one in page.complaints)


def test_nothing_is_fetched_from_elsewhere() -> None:
    for path in pages.FOLDER.rglob("*"):
        if path.suffix in {".html", ".js", ".css"} and VENDORED not in path.parents:
            assert re.findall(r"(?:https?:)?//[\w.-]+\.\w", path.read_text()) == [], path


def test_the_chart_library_is_the_one_that_its_note_names() -> None:
    noted = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", (VENDORED / "README.md").read_text(), re.M))
    assert noted == {
        path.name: sha256(path.read_bytes()).hexdigest() for path in VENDORED.iterdir() if path.name != "README.md"
    }


def reached(running: Live, second: int) -> bool:
    return running.feed.sampler.second >= second


def test_pictures(run_dir: Path, chromium: Browser) -> None:
    wanted = os.environ.get("VIRTIOD_SCREENSHOTS")
    folder = Path(wanted) if wanted else run_dir
    seconds = 75 if wanted else 3

    async def test(running: Live, page: Page, _peer: Peer) -> None:
        await until(partial(reached, running, seconds), "there is something to see", seconds + PATIENCE_S)
        for name, scheme, width, phone in (
            ("desktop", "light", 1280, False),
            ("dark", "dark", 1280, False),
            ("phone", "light", 390, True),
        ):
            await page.prefer(prefers_color_scheme=scheme)
            await page.size(width, 844 if phone else 960, phone)
            await until(partial(reached, running, running.feed.sampler.second + 2), "it is drawn anew")
            await page.picture(folder / f"page-{name}.png")
            assert (folder / f"page-{name}.png").stat().st_size > 10_000

    run_page(run_dir, chromium, test)
