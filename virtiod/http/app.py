"""The pages: GET of the live page with its feed, of /metrics and of /healthz; POST of /rpc if that is wanted."""

from __future__ import annotations

import asyncio
import weakref

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from virtiod.api.services import Health
from virtiod.core.errors import InvalidArgument
from virtiod.http.live.feed import FEED, Feed
from virtiod.http.pages import add_pages
from virtiod.http.rpc import refuse_to_continue, rpc_page
from virtiod.http.security.auth import guard
from virtiod.http.security.connections import Connections
from virtiod.http.security.tokens import Tokens
from virtiod.http.server import CONNECTIONS
from virtiod.metrics.collector import SystemCollector
from virtiod.rpc.protocol.dispatcher import Dispatcher
from virtiod.system import System

POLICY = "default-src 'none'; frame-ancestors 'none'"  # of responses that are no page
HEADERS = {
    "Server": "virtiod",
    "Connection": "close",  # force_close() is too late to send this
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    system: System, dispatcher: Dispatcher, health: Health, tokens: Tokens | None = None, rpc: bool = False
) -> web.Application:
    """The application for one daemon.

    tokens: None when no token is needed. rpc: whether methods can be called, which needs tokens.
    """
    # aiohttp caches handlers by application for as long as the process lives, and they must not keep these.
    system, dispatcher, health = weakref.proxy(system), weakref.proxy(dispatcher), weakref.proxy(health)
    collector = SystemCollector(system, dispatcher.timings, health)
    scraping = asyncio.Lock()  # one page is written at a time, however many ask

    async def metrics(request: web.Request) -> web.Response:
        content_type = choose_encoder(request.headers.get("Accept", ""))[1]
        async with scraping:
            page = await collector.collect()
            # Writing takes as long as reading: it is left to a thread.
            text = await asyncio.to_thread(page.encode, "openmetrics" in content_type)
        return web.Response(body=text, headers={"Content-Type": content_type, "Vary": "Accept"})

    async def healthz(_request: web.Request) -> web.Response:
        reason = health.problem()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def finish(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.update(HEADERS)
        response.force_close()

    connections = Connections()
    app = web.Application(middlewares=[connections.middleware(), guard(tokens)])
    app[CONNECTIONS] = connections
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    add_pages(app)
    app[FEED] = Feed(system, health, connections)
    app[FEED].add_to(app)
    if rpc:
        if tokens is None:
            raise InvalidArgument("--http-rpc needs --http-tokens: else whoever reaches the port could call any method")
        for path in ("/rpc", "/"):
            app.router.add_post(path, rpc_page(dispatcher, connections), expect_handler=refuse_to_continue)
    app.on_response_prepare.append(finish)
    return app
