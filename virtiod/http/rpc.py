"""POST /rpc: JSON-RPC for callers with a token. POST / does the same, as clients of SPDK's HTTP proxy send it there.

Whatever the methods answer comes with status 200, notifications with 204. A body that is not JSON is answered by 400
and an error of JSON-RPC, too long a body by 413, too slow a one by 408, too many calls by 429.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from virtiod.api.errors import INVALID_REQUEST, PARSE_ERROR
from virtiod.core.counted import counted
from virtiod.http.security.auth import CALLER, too_many
from virtiod.http.security.connections import PEER, REQUEST_S, Connections
from virtiod.rpc.protocol.dispatcher import Dispatcher, encode, error_line
from virtiod.rpc.protocol.framer import MAX_REQUEST_BYTES, FrameError, Framer

MAX_RUNNING = 8  # requests of one caller
MAX_BATCH = 128  # calls in one request

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def rpc_page(dispatcher: Dispatcher, connections: Connections) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler, behind a guard that has tokens."""
    running: Counter[str] = Counter()

    async def rpc(request: web.Request) -> web.Response:
        caller = dataclasses.replace(request[CALLER], at=request.remote or request[PEER].name)
        if running[caller.name] >= MAX_RUNNING:
            return too_many(1.0, f"{MAX_RUNNING} requests of {caller.name} are running")
        running[caller.name] += 1
        try:
            value = _parse(await _body(request))
            with connections.unhurried(request.protocol):
                answer = await dispatcher.handle(value, caller)
        except FrameError as error:
            return _json(error_line(PARSE_ERROR, f"Parse error: {error}"), 400)
        except _BadBatch as error:
            return _json(error_line(INVALID_REQUEST, f"Invalid Request: {error}"), 400)
        finally:
            running[caller.name] -= 1
        return web.Response(status=204) if answer is None else _json(encode(answer), 200)

    return rpc


async def refuse_to_continue(_request: web.Request) -> None:
    """Has a client that asks before it sends its body (Expect) wait until its token and its length were checked."""


class _BadBatch(Exception):
    pass


def _json(body: bytes, status: int) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def _body(request: web.Request) -> bytes:
    """The body of a request. Raises HTTPException."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="a compressed body is not accepted\n")
    body = bytearray()
    if (request.content_length or 0) > MAX_REQUEST_BYTES:
        raise _too_long(request)
    if "Expect" in request.headers:
        await request.writer.write(_CONTINUE)
    try:
        async with asyncio.timeout(REQUEST_S):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > MAX_REQUEST_BYTES:
                    raise _too_long(request)
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text=f"the body: {error}\n") from None
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body took longer than {REQUEST_S:g} s\n") from None
    return bytes(body)


def _too_long(request: web.Request) -> web.HTTPException:
    actual = request.content_length or MAX_REQUEST_BYTES + 1
    text = f"a request may have {MAX_REQUEST_BYTES} bytes\n"
    return web.HTTPRequestEntityTooLarge(MAX_REQUEST_BYTES, actual, text=text)


def _parse(body: bytes) -> Any:
    """The one value of the body. Raises FrameError or _BadBatch."""
    framer = Framer()
    values = framer.feed(body)
    if framer.error is not None:
        raise framer.error
    if len(values) != 1 or framer.pending:
        found = f"{counted(len(values), 'value')} and {counted(framer.pending, 'byte')} more"
        raise FrameError(f"{found}; there must be one value")
    if isinstance(values[0], list) and len(values[0]) > MAX_BATCH:
        raise _BadBatch(f"a batch may have {MAX_BATCH} calls")
    return values[0]
