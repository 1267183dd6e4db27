"""Chromium without a screen, driven by its DevTools protocol over a pipe.

with Browser.started(folder) as browser:
    async with browser.tab() as page:
        await page.open(url)
        assert await page.js("document.title") == "virtiod"

A start takes seconds of CPU, so tests share a browser. Each has a tab with its own storage and cache.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import leaks
from tests.support.peers import requires
from tests.support.waiting import PATIENCE_S, wait_until

END_S = 10.0  # to go by itself, before it is killed
MAX_MESSAGE = 64 << 20

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


class Page:
    """One tab. complaints: what its console, its network and its content security policy had to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, numbers: Iterator[int]) -> None:
        self.complaints: list[str] = []
        self._reader, self._writer = reader, writer
        self._numbers = numbers  # of calls, to the browser's end: no answer is taken for another tab's
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._session: str | None = None
        self._loaded = asyncio.Event()

    async def start(self) -> None:
        """Open a tab that shares nothing with others."""
        context = await self.call("Target.createBrowserContext")
        self._context = context["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            await self.call(f"{domain}.enable")

    async def close(self) -> None:
        """Close the tab, and take all that the browser still has to say of it."""
        self._session = None
        await self.call("Target.disposeBrowserContext", browserContextId=self._context)
        await self.call("Browser.getVersion")

    async def listen(self) -> None:
        """Take what the browser says, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                said = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in said:
                    if answer := self._answers.pop(said["id"], None):
                        answer.set_result(said)
                elif self._session and said.get("sessionId") == self._session:
                    self._event(said["method"], said.get("params", {}))
        for waiting in self._answers.values():
            waiting.set_result({"error": {"message": "the browser is gone"}})

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Log.entryAdded":
            self.complaints.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {params['args']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(f"exception: {details['text']} {details.get('exception', {}).get('description')}")
        elif method == "Audits.issueAdded":
            self.complaints.append(f"issue: {params['issue']}")

    async def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(message).encode() + b"\0")
        await self._writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            said = await answer
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    async def open(self, url: str) -> None:
        """Until it is loaded."""
        self._loaded.clear()
        result = await self.call("Page.navigate", url=url)
        assert not result.get("errorText"), result
        async with asyncio.timeout(PATIENCE_S):
            await self._loaded.wait()

    async def js(self, expression: str) -> Any:
        """An expression's value, or that of its promise."""
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, expression: str, seconds: float = PATIENCE_S, fits: Callable[[Any], object] = bool) -> Any:
        """Until the expression's value fits; the value."""
        end = asyncio.get_running_loop().time() + seconds
        while not fits(value := await self.js(expression)):
            assert asyncio.get_running_loop().time() < end, f"not within {seconds} s: {expression}: {value}"
            await asyncio.sleep(0.05)
        return value

    async def press(self, key: str, modifiers: int = 0) -> None:
        """A key; modifiers: 8 for shift."""
        text = {"Enter": "\r", " ": " "}.get(key)
        common = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        await self.call("Input.dispatchKeyEvent", **down, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def size(self, width: int, height: int, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    async def prefer(self, **features: str) -> None:
        """Media features, such as prefers_color_scheme="dark"."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=wanted)

    async def picture(self, path: Path, full: bool = False) -> None:
        """A screenshot, of what fits the window or of the full length."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


class Browser:
    """A browser with a profile of its own, in `folder`."""

    def __init__(self, folder: Path) -> None:
        requires("chromium")
        self._profile = folder / "chromium"
        self._numbers = itertools.count(1)
        to_browser, from_browser = os.pipe(), os.pipe()
        # The protocol is spoken on the browser's file descriptors 3 and 4.
        command = f'exec chromium "$@" 3<&{to_browser[0]} 4>&{from_browser[1]} {to_browser[0]}<&- {from_browser[1]}>&-'
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", command, "chromium", *OPTIONS, f"--user-data-dir={self._profile}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(to_browser[0], from_browser[1]),
                start_new_session=True,
                env={**os.environ, "HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
            )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._output, self._input = from_browser[0], to_browser[1]

    @classmethod
    @contextlib.contextmanager
    def started(cls, folder: Path) -> Iterator[Browser]:
        browser = cls(folder)
        try:
            asyncio.run(browser._answers())
            yield browser
        finally:
            browser.close()

    async def _answers(self) -> None:
        async with self.tab():
            pass

    @contextlib.asynccontextmanager
    async def tab(self) -> AsyncIterator[Page]:
        """A new tab, one at a time."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_MESSAGE)
        output, input_ = os.fdopen(os.dup(self._output), "rb"), os.fdopen(os.dup(self._input), "wb")
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), output)
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, input_)
        page = Page(reader, asyncio.StreamWriter(writing, protocol, None, loop), self._numbers)
        listening = asyncio.create_task(page.listen())
        try:
            await page.start()
            try:
                yield page
            finally:
                await page.close()
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            writing.close()
            reading.close()

    def close(self) -> None:
        os.close(self._input)  # which ends the browser
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._output)
        wait_until(lambda: _all_reaped(str(self._profile).encode()), "the browser's processes end")


def _all_reaped(profile: bytes) -> bool:
    """The browser's own processes become children of this one when it ends, as tests.support.leaks adopts orphans.

    Those that still run name the profile in their command line, or have a browser's name: one runs at a time.
    """
    done = True
    for process in leaks.children():
        with contextlib.suppress(OSError, ChildProcessError):
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            name = Path(f"/proc/{process}/comm").read_text()
            if profile in command or name.startswith("chrom"):
                done = False
                os.waitpid(int(process), os.WNOHANG)
    return done
