"""The asyncio client's way over HTTP and HTTPS: a POST for each call, on connections that are kept."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from rpc_client.errors import ConnectFailed, ConnectionLost
from rpc_client.protocol import RECEIVE_BYTES, Session, check_size
from rpc_client.url import NO_ANSWER, Access, Target, cause


class AsyncHttp:
    """The wire to a URL."""

    def __init__(self, url: str, access: Access, connect_timeout_s: float | None) -> None:
        self._target = Target(url, access)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._headers = {"Content-Type": "application/json"}
        if self._target.authorization is not None:
            self._headers["Authorization"] = self._target.authorization
        self._proxy = _proxy(self._target.url)
        self._session: aiohttp.ClientSession | None = None

    async def exchange(self, method: str, params: Mapping[str, Any] | None) -> Any:
        self._target.check_secrecy()
        session = Session()
        _, request = session.request(method, params)
        (answer,) = session.answers(await self._post(request))
        if answer.error is not None:
            raise answer.error
        return answer.result

    async def _post(self, request: bytes) -> bytes:
        url = self._target.url
        try:
            async with self._opened().post(
                url, data=request, headers=self._headers, proxy=self._proxy, allow_redirects=False
            ) as response:
                return self._target.reply(response.status, response.reason or "", await _body(response))
        except TimeoutError:
            raise
        except aiohttp.ClientConnectionError as error:
            raise ConnectFailed(
                f"connect to {url}: {cause(error, aiohttp.ClientError, aiohttp.ServerDisconnectedError)}"
            ) from error
        except aiohttp.ClientResponseError as error:  # not an answer of HTTP at all
            raise ConnectFailed(f"connect to {url}: {NO_ANSWER}") from error
        except aiohttp.ClientError as error:
            raise ConnectionLost(f"{url}: {error}") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=_tls(self._target))
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


async def _body(response: aiohttp.ClientResponse) -> bytes:
    received = bytearray()
    async for piece in response.content.iter_chunked(RECEIVE_BYTES):
        received += piece
        check_size(len(received))
    return bytes(received)


def _tls(target: Target) -> ssl.SSLContext | bool:
    """The TLS set-up of a URL. Raises ConnectFailed for a file of certificates that is absent or not valid."""
    if not target.url.startswith("https:"):
        return True
    access = target.access
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.cert is not None:
            context.load_cert_chain(access.cert, access.key or access.cert)
    except OSError as error:
        raise ConnectFailed(f"{target.url}: {error}") from error
    return context


def _proxy(url: str) -> str | None:
    """The proxy for a URL that the environment names, as for the synchronous client."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
