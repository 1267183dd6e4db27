"""What can go wrong with a call.

ClientError
├── ConnectFailed     nobody there, or nobody to talk to
├── ConnectionLost    it ended before the answer came
├── TimedOut          the answer did not come in time; what was asked may still happen
├── BadReply          the answer is not one to what was asked
└── MethodError       the method's own error: code, message, data
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all."""


class ConnectFailed(ClientError):
    pass


class ConnectionLost(ClientError):
    pass


class TimedOut(ClientError):
    pass


class BadReply(ClientError):
    pass


class MethodError(ClientError):
    """What the daemon answered instead of a result. A negative errno as code tells what went wrong."""

    def __init__(self, method: str, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data
