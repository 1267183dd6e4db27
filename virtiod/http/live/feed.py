"""The page's data: GET /live, server-sent events (WHATWG HTML, 9.2).

The event "history" comes first, with what is kept of the chosen bdev; then each second "sample", with its newest
cell and the tables. A reader that is late by more than its buffers and SEND_S is disconnected; its page then connects
again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from aiohttp import web

from virtiod.api.services import Health
from virtiod.core.tasks import cancel, spawn
from virtiod.http.live.cells import IDLE
from virtiod.http.live.history import SECONDS
from virtiod.http.live.report import report
from virtiod.http.live.sampler import Sampler
from virtiod.http.security.connections import Connections
from virtiod.system import System

MAX_WATCHERS = 16
SEND_S = 5.0
MAX_NAME = 256


class Feed:
    """The live feed of one daemon; its sampler runs with the application. It limits its connections itself."""

    def __init__(self, system: System, health: Health, connections: Connections) -> None:
        self._system = system
        self._health = health
        self._connections = connections
        self.sampler = Sampler(system)
        self.watchers = 0
        self._ending = False

    def add_to(self, app: web.Application) -> None:
        """Serves the feed in this application."""
        app.router.add_get("/live", self.live, allow_head=False)
        app.cleanup_ctx.append(self._sampling)
        app.on_shutdown.append(self._end_watchers)

    async def _sampling(self, _app: web.Application) -> AsyncIterator[None]:
        task = spawn(self.sampler.run(), "live page: sampler")
        yield
        await cancel(task)
        self.sampler.forget()

    async def _end_watchers(self, _app: web.Application) -> None:
        """Ends the streams of all watchers, which never end by themselves and would delay the stop."""
        self._ending = True
        async with self.sampler.changed:
            self.sampler.changed.notify_all()

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Answers GET /live. Query: bdev (none: all together) and find (what names in the tables must contain)."""
        bdev, find = request.query.get("bdev") or None, request.query.get("find", "")
        if max(len(bdev or ""), len(find)) > MAX_NAME:
            raise web.HTTPBadRequest(text=f"bdev and find: at most {MAX_NAME} characters\n")
        if self.watchers >= MAX_WATCHERS:
            text = f"{MAX_WATCHERS} pages are watching already\n"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "10"})
        self.watchers += 1
        try:
            with self._connections.unhurried(request.protocol):
                return await self._stream(request, bdev, find)
        finally:
            self.watchers -= 1

    async def _stream(self, request: web.Request, bdev: str | None, find: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        second = self.sampler.second
        message = event("history", self._history(bdev)) + event("sample", self._sample(bdev, find))
        while True:
            try:
                async with asyncio.timeout(SEND_S):
                    await response.write(message)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                return response
            second = await self._next(second)
            if self._ending:
                return response
            message = event("sample", self._sample(bdev, find))

    async def _next(self, second: int) -> int:
        """Waits for a sample later than that, or the end."""
        async with self.sampler.changed:
            await self.sampler.changed.wait_for(lambda: self._ending or self.sampler.second > second)
        return self.sampler.second

    def _history(self, bdev: str | None) -> dict[str, object]:
        cells = self.sampler.history.of(bdev)
        return {
            "seconds": SECONDS,
            "cells": [[round(at, 3), *cell.row()] for at, cell in cells],
        }

    def _sample(self, bdev: str | None, find: str) -> dict[str, object]:
        sampler = self.sampler
        cells = {each.name: watched.cell for each, watched in sampler.bdevs.items()} if bdev else {}
        cell = cells.get(bdev, IDLE) if bdev else sampler.total
        return {
            "bdev": bdev,
            "gone": bdev is not None and bdev not in cells,
            "cell": [round(sampler.at, 3), *cell.row()],
            **report(self._system, self._health, sampler, find),
        }


FEED = web.AppKey("feed", Feed)


def event(name: str, data: object) -> bytes:
    """One event; JSON holds no line break."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
