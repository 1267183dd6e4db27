"""Who may make requests, and how often: a middleware in front of every page, behind that of Connections.

Without tokens everybody may, at a bounded rate. With tokens (--http-tokens) all but OPEN_PAGES needs one: as Bearer, or
by Basic as the password of its name, which browsers ask for. request[CALLER] is then who it is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from virtiod.api.caller import Caller
from virtiod.http.security.buckets import Buckets
from virtiod.http.security.connections import PEER
from virtiod.http.security.tokens import Tokens

CALLER = web.RequestKey("CALLER", Caller)
OPEN_PAGES = frozenset({"/healthz"})  # says nothing worth hiding, and load balancers have no tokens
REQUESTS_PER_S, REQUESTS_AT_ONCE = 50.0, 100.0  # of one caller; without a token, of one address
FAILURES_PER_S, FAILURES_AT_ONCE = 1.0, 10.0  # wrong tokens of one address; a right one is taken in spite of them

_CHALLENGES = ('Basic realm="virtiod", charset="UTF-8"', 'Bearer realm="virtiod"')

logger = logging.getLogger(__name__)


def guard(tokens: Tokens | None, clock: Callable[[], float] = time.monotonic) -> Middleware:
    """The middleware. tokens: None when no token is needed."""
    requests = Buckets(REQUESTS_PER_S, REQUESTS_AT_ONCE)
    failures = Buckets(FAILURES_PER_S, FAILURES_AT_ONCE)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        address = request[PEER].origin
        if _is_foreign(request):
            return web.Response(status=403, text="requests of other sites' pages are refused\n")
        key = f"address {address}"
        if tokens is not None and request.path not in OPEN_PAGES:
            caller = tokens.find(request.headers.get("Authorization", ""))
            if caller is None:
                if "Authorization" in request.headers:  # browsers ask once without, to be told how
                    wait = failures.take(address, clock())
                    if wait:
                        return too_many(wait, "too many wrong tokens from this address")
                    logger.warning("%s %s from %s: wrong token", request.method, request.path[:64], address)
                return _unauthorised()
            request[CALLER] = caller
            key = f"caller {caller.name}"
        wait = requests.take(key, clock())
        return too_many(wait, "too many requests") if wait else await handler(request)

    return middleware


def too_many(wait_s: float, why: str) -> web.Response:
    """A response 429, which says after how many seconds to try again."""
    return web.Response(status=429, text=f"{why}\n", headers={"Retry-After": str(math.ceil(wait_s))})


def _unauthorised() -> web.Response:
    response = web.Response(status=401, text="a token is needed (Authorization: Bearer TOKEN, or Basic NAME:TOKEN)\n")
    for challenge in _CHALLENGES:
        response.headers.add("WWW-Authenticate", challenge)
    return response


def _is_foreign(request: web.Request) -> bool:
    """Whether a page from elsewhere has the browser ask, which would add the user's password by itself."""
    sender = request.headers.get("Origin")
    return sender is not None and urlsplit(sender).netloc != request.host
