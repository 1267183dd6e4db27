"""The base of the methods' own functions (methods.py, async_methods.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from rpc_client.errors import BadReply

T = TypeVar("T")


class Caller(ABC):
    """Calls methods by name."""

    @abstractmethod
    def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Any:
        """The result of a method, as json.loads has it. Raises ClientError.

        timeout_s: for this call, instead of the client's.
        """

    def _ask(self, kind: type[T], method: str, params: Mapping[str, Any], timeout_s: float | None) -> T:
        return _typed(kind, method, self.call(method, _given(params), timeout_s=timeout_s))


class AsyncCaller(ABC):
    """Calls methods by name."""

    @abstractmethod
    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """The result of a method, as json.loads has it. Raises ClientError.

        timeout_s: for this call, instead of the client's.
        """

    async def _ask(self, kind: type[T], method: str, params: Mapping[str, Any], timeout_s: float | None) -> T:
        return _typed(kind, method, await self.call(method, _given(params), timeout_s=timeout_s))


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are not None: for those not sent the daemon's defaults hold."""
    return {name: value for name, value in params.items() if value is not None}


def _typed(kind: type[T], method: str, result: Any) -> T:
    """The result as its type. Members that the type does not know are left out."""
    try:
        return msgspec.convert(result, kind)
    except msgspec.ValidationError as error:
        raise BadReply(f"{method}: the result is not as described: {error}") from error
