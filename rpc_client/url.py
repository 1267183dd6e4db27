"""Calls over HTTP and HTTPS, a POST for each: what the synchronous and the asyncio client share."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from rpc_client.errors import ConnectFailed

_LOOPBACK = ("127.", "[::1]", "localhost")
_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}  # an answer's reasons
NO_TLS = "the server does not speak TLS there: the URL may have to begin with http://"
NO_ANSWER = "the server gave no answer of HTTP: if it speaks TLS there, the URL must begin with https://"
_SAID = 200  # characters of what a server says of an error


@dataclass(frozen=True)
class Access:
    """The client's credentials: a token, or user and password; certificate with its key (key None: in the same file).

    ca: a file of authorities to trust, instead of the system's.
    """

    token: str | None = None
    credentials: tuple[str, str] | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Target:
    """Where calls are sent, at the path /rpc unless the URL has another, and the credentials for it."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self.url = urlunsplit(parts._replace(path=parts.path or "/rpc"))
        self.access = access
        self._in_the_open = parts.scheme == "http" and not parts.netloc.rpartition("@")[2].startswith(_LOOPBACK)

    @property
    def authorization(self) -> str | None:
        """The value of the header Authorization; None without credentials."""
        if self.access.token is not None:
            return f"Bearer {self.access.token}"
        if self.access.credentials is not None:
            return "Basic " + base64.b64encode(":".join(self.access.credentials).encode()).decode()
        return None

    def check_secrecy(self) -> None:
        """Raises ConnectFailed where a token could be read on its way."""
        if self._in_the_open and self.access.token is not None:
            raise ConnectFailed(f"{self.url}: a token is only sent over https, or to this host")

    def reply(self, status: int, reason: str, body: bytes) -> bytes:
        """The reply in a response. Raises ConnectFailed when it is none."""
        # An error of a method may come with a status of its own; what is no JSON comes from HTTP itself.
        if status == 200 or body.lstrip().startswith((b"{", b"[")):
            return body
        said = body[:_SAID].decode("utf-8", "replace").partition("\n")[0].strip()
        what = f"{status} {reason}"
        raise ConnectFailed(f"{self.url}: {what}: {said}" if said.isprintable() and said else f"{self.url}: {what}")


def cause(error: BaseException, library: type[Exception], no_answer: type[Exception]) -> str:
    """The original cause of an error, as the system's text and not that of an HTTP library.

    no_answer: what the library raises if the server closes the connection, or says what is not HTTP.
    """
    for at in _chain(error):
        if isinstance(at, no_answer):
            return NO_ANSWER
        if isinstance(at, library):
            continue
        if isinstance(at, ssl.SSLCertVerificationError):
            return f"{at.reason}: {at.verify_message}"
        if isinstance(at, ssl.SSLError):
            return NO_TLS if at.reason in _NOT_TLS else str(at.reason or at.strerror)
        if isinstance(at, ConnectionError) and at.errno:
            return os.strerror(at.errno)  # asyncio's text is not the system's
        if isinstance(at, OSError) and at.strerror:
            return at.strerror
    return str(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what caused it, and so on. requests keeps the cause of a broken connection among its arguments."""
    at: BaseException | None = error
    while at is not None:
        yield at
        yield from (arg for arg in at.args if isinstance(arg, BaseException))
        at = at.__cause__ or at.__context__
