"""What methods, configurations and HTTP may ask of the process that they run in: narrow views of the daemon.

A method says which it needs by the types of its first parameters; the dispatcher hands them in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from virtiod.api.registry import Method


class Lifecycle(Protocol):
    """The daemon's start."""

    async def start_init(self) -> None:
        """Goes from startup to runtime. Raises VirtiodError; then the daemon ends."""

    async def wait_init(self) -> None:
        """Returns when the daemon is in runtime."""


class Health(Protocol):
    """The daemon's health."""

    def problem(self) -> str:
        """What is wrong with it; "" for nothing."""

    def unsaved(self) -> str:
        """Why the state file does not have the state; "" when it has, or when there is none."""

    def dropped_messages(self) -> int:
        """How many messages of the log were dropped, as nobody read it, or it could not be written."""


class Files(Protocol):
    """Where the daemon leaves files for operators."""

    def beside_socket(self, name: str) -> str:
        """The path of a file beside the RPC socket, whose name ends with this."""


class Logs(Protocol):
    """The daemon's log: the level from which messages are made, that from which they are printed, and flags."""

    level: str
    print_level: str

    @property
    def dropped(self) -> int:
        """How many messages were dropped, as nobody read the log, or it could not be written."""

    @property
    def dropping(self) -> bool:
        """Whether they are now."""

    def flags(self) -> dict[str, bool]:
        """The parts of the daemon, and whether each logs everything."""

    def set_flag(self, name: str, on: bool) -> None:
        """Sets or clears a flag; "all" is every part. Raises InvalidArgument for an unknown part."""


class Calls(Protocol):
    """The methods, for calls from the daemon itself."""

    on_change: Callable[[], Awaitable[None]] | None  # awaited before a client is answered about a change; RpcError

    @property
    def methods(self) -> Mapping[str, Method]:
        """All methods, by name."""

    def names(self, *, current: bool = False, include_aliases: bool = False) -> list[str]:
        """Names of the methods, only those of the current state if asked."""

    def callable_now(self, name: str) -> bool:
        """Whether the method may be called in the current state. Raises RpcError if there is none."""

    async def call(self, name: str, params: Mapping[str, object]) -> Any:
        """Calls a method for the daemon itself, which may call any and is not audited. Raises RpcError."""
