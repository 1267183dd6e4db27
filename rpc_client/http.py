"""The synchronous client's way over HTTP and HTTPS."""

from __future__ import annotations

from http.client import BadStatusLine

import requests
from requests.auth import AuthBase

from rpc_client.errors import ConnectFailed, ConnectionLost
from rpc_client.protocol import RECEIVE_BYTES, check_size
from rpc_client.url import Access, Target, cause
from rpc_client.wire import Deadline


class Http:
    """The wire to a URL."""

    def __init__(self, url: str, access: Access) -> None:
        self._target = Target(url, access)
        self._session = requests.Session()
        if self._target.authorization is not None:
            self._session.auth = _Authorization(self._target.authorization)
        self._verify: bool | str = access.ca or True
        if access.cert is not None:
            self._session.cert = (access.cert, access.key or access.cert)
        self._session.headers["Content-Type"] = "application/json"

    def exchange(self, request: bytes, deadline: Deadline) -> bytes:
        url = self._target.url
        self._target.check_secrecy()
        try:
            # verify is given here, as REQUESTS_CA_BUNDLE would take the place of the session's.
            with self._session.post(
                url,
                request,
                timeout=(deadline.to_connect(), deadline.left()),
                verify=self._verify,
                stream=True,
                allow_redirects=False,
            ) as response:
                return self._target.reply(response.status_code, response.reason, _body(response, deadline))
        except requests.Timeout:
            raise TimeoutError from None
        except requests.ConnectionError as error:
            raise ConnectFailed(
                f"connect to {url}: {cause(error, requests.RequestException, BadStatusLine)}"
            ) from error
        except requests.RequestException as error:
            raise ConnectionLost(f"{url}: {error}") from error
        except OSError as error:  # a file of certificates that is not there
            raise ConnectFailed(f"{url}: {error}") from error

    def close(self) -> None:
        self._session.close()


def _body(response: requests.Response, deadline: Deadline) -> bytes:
    received = bytearray()
    for piece in response.iter_content(RECEIVE_BYTES):
        deadline.left()
        received += piece
        check_size(len(received))
    return bytes(received)


class _Authorization(AuthBase):
    """As an object of its own, so that a password in ~/.netrc does not take its place."""

    def __init__(self, header: str) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request
