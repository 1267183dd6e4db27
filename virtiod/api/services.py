"""What methods, configurations and HTTP may ask of the process around them: narrow views of the daemon.

A method says which it needs by the types of its first parameters; the dispatcher hands them in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from virtiod.api.registry import Method


class Lifecycle(Protocol):
    """The daemon's start."""

    async def start_init(self) -> None:
        """Goes from startup to runtime. Raises VirtiodError; the daemon ends then."""

    async def wait_init(self) -> None:
        """Returns when it is in runtime."""


class Health(Protocol):
    """How the daemon is."""

    def ailment(self) -> str:
        """What is wrong with it; "" for nothing."""


class Logs(Protocol):
    """The daemon's log: the level from which messages are made, that from which they are printed, and flags."""

    level: str
    print_level: str

    def flags(self) -> dict[str, bool]:
        """Which parts of the daemon log everything."""

    def set_flag(self, name: str, on: bool) -> None:
        """Raises InvalidArgument for a part that there is not; "all" is every part."""


class Calls(Protocol):
    """The methods, called from inside."""

    on_change: Callable[[], Awaitable[None]] | None  # awaited before a client gets the result of a change

    @property
    def methods(self) -> Mapping[str, Method]:
        """Those that there are, by name."""

    def names(self, *, current: bool = False, include_aliases: bool = False) -> list[str]:
        """Names of the methods, only those of the current state if asked."""

    def callable_now(self, name: str) -> bool:
        """Whether the method may be called in the current state. Raises RpcError if there is none."""

    async def call(self, name: str, params: Mapping[str, object]) -> Any:
        """Calls a method for the daemon itself, which may call any and is not audited. Raises RpcError."""
