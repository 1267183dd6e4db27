"""Requests and answers, however they travel: what the synchronous and the asyncio client share.

No socket and no clock. Calls go in and bytes to send come out; what was received goes in and answers come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpc_client.errors import BadReply, MethodError

MAX_REPLY_BYTES = 32 << 20
RECEIVE_BYTES = 256 << 10


@dataclass(frozen=True)
class Answer:
    """The answer to the call with this id: a result, or the method's error."""

    id: int
    result: Any = None
    error: MethodError | None = None


class Session:
    """The calls of one connection that wait for their answers, which may come in any order."""

    def __init__(self) -> None:
        self._last_id = 0
        self._waiting: dict[int, str] = {}  # id -> method
        self._dropped: set[int] = set()

    def request(self, method: str, params: Mapping[str, Any] | None) -> tuple[int, bytes]:
        """The id of a call, and what to send for it."""
        self._last_id += 1
        self._waiting[self._last_id] = method
        request: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "id": self._last_id}
        if params:
            request["params"] = dict(params)
        return self._last_id, json.dumps(request).encode()

    def drop(self, call_id: int) -> None:
        """Forgets a call whose answer nobody waits for any more. It may still come."""
        if self._waiting.pop(call_id, None) is not None:
            self._dropped.add(call_id)

    def answers(self, reply: bytes) -> list[Answer]:
        """What a reply answers: one call, none that is still waited for, or all of them when it names none.

        Raises BadReply for a reply to no call; then nothing else on the connection can be trusted either.
        """
        found = _decoded(reply)
        asked = ", ".join(self._waiting.values()) or "nothing"
        if not isinstance(found, dict) or ("result" in found) == ("error" in found):
            raise BadReply(f"{asked}: the answer must have either a result or an error")
        call_id = found.get("id")
        if isinstance(call_id, int) and call_id in self._dropped:
            self._dropped.discard(call_id)
            return []
        error = found.get("error")
        if "error" in found and (not isinstance(error, dict) or not isinstance(error.get("code"), int)):
            raise BadReply(f"{asked}: the answer's error has no code")
        if error and call_id is None:  # it could not be ascribed to a request
            return [self._answer(waiting, error, None) for waiting in list(self._waiting)]
        if not isinstance(call_id, int) or call_id not in self._waiting:
            ids = ", ".join(map(str, self._waiting))
            raise BadReply(f"{asked}: the answer is for request {call_id!r}, not for {ids}")
        return [self._answer(call_id, error, found.get("result"))]

    def _answer(self, call_id: int, error: dict[str, Any] | None, result: Any) -> Answer:
        method = self._waiting.pop(call_id)
        if error is None:
            return Answer(call_id, result)
        failure = MethodError(method, error["code"], str(error.get("message", "")), error.get("data"))
        return Answer(call_id, error=failure)


class Lines:
    """Cuts what a Unix socket brings into replies, one a line."""

    def __init__(self, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that became complete. Raises BadReply when one is too long."""
        *ended, rest = data.split(b"\n")
        lines = []
        for end in ended:
            lines.append(bytes(self._pending + end))
            self._pending.clear()
        self._pending += rest
        check_size(max(map(len, [*lines, self._pending])), self._max_bytes)
        return lines


def check_size(size: int, max_bytes: int = MAX_REPLY_BYTES) -> None:
    """Raises BadReply for a reply of so many bytes if they are too many."""
    if size > max_bytes:
        raise BadReply(f"the answer has more than {max_bytes} bytes")


def allowance(timeout_s: float, params: Mapping[str, Any] | None) -> float:
    """How many seconds a call may take: its time_s, if it has one, in addition to timeout_s."""
    asked = (params or {}).get("time_s")
    return timeout_s + (asked if isinstance(asked, int | float) else 0)


def _decoded(reply: bytes) -> Any:
    try:
        return json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the answer is not JSON: {error}") from error
