"""The errors of calls.

ClientError
├── ConnectFailed     no connection could be made, or access was refused
├── ConnectionLost    the connection ended before the answer came
├── TimedOut          the answer did not come in time; what was asked may still happen
├── BadReply          the answer is not one to what was asked
└── MethodError       the method's own error: code, message, data
"""

from __future__ import annotations


class ClientError(Exception):
    """The base of all errors."""


class ConnectFailed(ClientError):
    pass


class ConnectionLost(ClientError):
    pass


class TimedOut(ClientError):
    pass


class BadReply(ClientError):
    pass


class MethodError(ClientError):
    """An error that the daemon answered instead of a result. Its code may be a negative errno."""

    def __init__(self, method: str, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data
