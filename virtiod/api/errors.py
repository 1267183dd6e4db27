"""The error codes of JSON-RPC, and the exception that carries one to the client."""

from __future__ import annotations

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
INVALID_STATE = -1  # the method exists, but can't be called now


class RpcError(Exception):
    """An error that is answered as it is. Of other exceptions VirtiodError becomes -errno, all others become -32603."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
