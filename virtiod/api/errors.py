"""The error codes of JSON-RPC, and the exception that carries one to the client."""

from __future__ import annotations

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
INVALID_STATE = -1  # the method exists, but can't be called now
NOT_SAVED = -32001  # the call was made, all of it; only the state file does not have it


class RpcError(Exception):
    """An error that is answered as it is. Of other exceptions VirtiodError becomes -errno, all others become -32603."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NotSaved(RpcError):
    """What any method may be answered with that changes something: it did, but the state file does not have it."""

    def __init__(self, why: str) -> None:
        super().__init__(NOT_SAVED, f"the change was made, but not saved: {why}")
