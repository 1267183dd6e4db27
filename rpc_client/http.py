"""Calls over HTTP and HTTPS, a POST for each."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from rpc_client.errors import BadReply, ConnectFailed, ConnectionLost
from rpc_client.wire import MAX_REPLY_BYTES, RECEIVE_BYTES, left

_LOOPBACK = ("127.", "[::1]", "localhost")
_SAID = 200  # characters of what a server says of an error


@dataclass(frozen=True)
class Access:
    """How to show who one is: a token, or user and password; certificate with its key (key None: in the same file).

    ca: a file of authorities to trust, instead of the system's.
    """

    token: str | None = None
    credentials: tuple[str, str] | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Http:
    """Wire of a URL, whose path is /rpc unless it says another."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(path=parts.path or "/rpc"))
        self._in_the_open = parts.scheme == "http" and not parts.netloc.rpartition("@")[2].startswith(_LOOPBACK)
        self._has_token = access.token is not None
        self._session = requests.Session()
        if access.token is not None:
            self._session.auth = _Bearer(access.token)
        elif access.credentials is not None:
            self._session.auth = HTTPBasicAuth(*(part.encode() for part in access.credentials))
        self._verify: bool | str = access.ca or True
        if access.cert is not None:
            self._session.cert = (access.cert, access.key or access.cert)
        self._session.headers["Content-Type"] = "application/json"

    def exchange(self, request: bytes, deadline: float) -> bytes:
        if self._in_the_open and self._has_token:
            raise ConnectFailed(f"{self._url}: a token is only sent over https, or to this host")
        try:
            # verify is given here, as REQUESTS_CA_BUNDLE would take the place of the session's.
            with self._session.post(
                self._url, request, timeout=left(deadline), verify=self._verify, stream=True, allow_redirects=False
            ) as response:
                return self._body(response, deadline)
        except requests.Timeout:
            raise TimeoutError from None
        except requests.ConnectionError as error:
            raise ConnectFailed(f"connect to {self._url}: {_cause(error)}") from error
        except requests.RequestException as error:
            raise ConnectionLost(f"{self._url}: {error}") from error
        except OSError as error:  # a file of certificates that is not there
            raise ConnectFailed(f"{self._url}: {error}") from error

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        received = bytearray()
        for piece in response.iter_content(RECEIVE_BYTES):
            left(deadline)
            received += piece
            if len(received) > MAX_REPLY_BYTES:
                raise BadReply(f"the answer has more than {MAX_REPLY_BYTES} bytes")
        # An error of a method may come with a status of its own; what is no JSON comes from HTTP itself.
        if response.status_code != 200 and not received.lstrip().startswith((b"{", b"[")):
            said = received[:_SAID].decode("utf-8", "replace").partition("\n")[0].strip()
            status = f"{response.status_code} {response.reason}"
            raise ConnectFailed(
                f"{self._url}: {status}: {said}" if said.isprintable() and said else f"{self._url}: {status}"
            )
        return bytes(received)

    def close(self) -> None:
        self._session.close()


class _Bearer(AuthBase):
    """As an object of its own, so that a password in ~/.netrc does not take its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _cause(error: BaseException) -> str:
    """What went wrong in the first place, in the system's words."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ssl.SSLCertVerificationError):
            return f"{at.reason}: {at.verify_message}"
        if isinstance(at, OSError) and at.strerror and not isinstance(at, requests.RequestException):
            return at.strerror
        at = at.__cause__ or at.__context__
    return str(error)
