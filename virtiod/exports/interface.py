"""Exports: a bdev offered to clients. Each kind of export is a package beside this file.

The contract with the layer below: an export opens its bdev with `bdev.open(use, on_resize=, on_remove=)` and
holds the handle until it ends. use() says who is connected, and whether they may write. When `on_remove` is awaited,
the export answers the I/O in flight, within its own deadline, ends every connection, closes the handle and returns: the
bdev is removed after that.

The contract with the layers above: they iterate over exports of all kinds, and count, show, save and end them by this
interface. For what only one kind can do (create, with parameters of its own) they call that kind: Kinds.of().
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.bdev.use import Access, Use
from virtiod.core.saved import SavedCall
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller

END_S = 5.0  # for in-flight I/O to be answered when an export ends


class ExportCounters(NamedTuple):
    """What all clients of an export, present and past, did. errors: answers that were errors; received, sent: bytes."""

    requests: int = 0
    errors: int = 0
    received: int = 0
    sent: int = 0
    in_flight: int = 0


class Export(ABC):
    """One bdev as clients of one kind see it."""

    kind: ClassVar[str]  # in names of metrics: virtiod_KIND_requests_total
    title: ClassVar[str]  # of the kind, for people
    name: str
    bdev: Bdev
    read_only: bool
    max_connections: int

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many clients use it now."""

    @property
    @abstractmethod
    def peers(self) -> Sequence[str]:
        """Who is connected, each once: process and user, or address."""

    @abstractmethod
    def counters(self) -> ExportCounters: ...

    @abstractmethod
    def description(self) -> object:
        """What the kind's own RPC method shows of it: a dataclass of described members."""

    @abstractmethod
    def saved_call(self) -> SavedCall:
        """The call that creates it."""

    def use(self) -> Use:
        """What it does with its bdev now. A client that is connected may write, unless the export is read-only."""
        access = Access.NONE if not self.connections else Access.READ if self.read_only else Access.WRITE
        return Use(self.kind, f"{self.title} export", self.name, access, self.peers, self.read_only)


@dataclass(frozen=True)
class ExportContext:
    """What exports work with. pollers: each poller with its buffers."""

    bdevs: BdevRegistry
    pollers: Sequence[tuple[Poller, PollerBuffers]]


@dataclass(frozen=True)
class ListenOptions:
    """Where a kind of exports listens: a Unix socket at path, and HOST:PORT; "" for none."""

    path: str = ""
    address: str = ""


class Exports(ABC):
    """All exports of one kind. Names are unique within it."""

    kind: ClassVar[str]  # as that of its exports
    title: ClassVar[str]
    subsystem: ClassVar[str]  # in configurations

    @abstractmethod
    def __init__(self, context: ExportContext) -> None: ...

    @abstractmethod
    async def start(self, options: ListenOptions, handed: socket.socket | None) -> None:
        """Offers all exports where options say, until stop(). handed: a socket that listens already, to be used too.

        Called once, when the pollers run. Raises InvalidArgument, or what listening raises.
        """

    @abstractmethod
    def list(self) -> Sequence[Export]:
        """All of them, in order of creation."""

    @abstractmethod
    async def delete(self, name: str, deadline_s: float = END_S) -> None:
        """Ends an export: requests in flight are answered within deadline_s (seconds). Raises NotFound."""

    @abstractmethod
    async def stop(self, deadline_s: float = END_S) -> None:
        """Ends all of them, side by side, and closes the listeners. Idempotent."""

    def saved_calls(self) -> Iterator[SavedCall]:
        return (export.saved_call() for export in self.list())


Kind = TypeVar("Kind", bound=Exports)


class Kinds:
    """The exports of all kinds."""

    def __init__(self, kinds: Iterable[Exports]) -> None:
        self._kinds = tuple(kinds)

    def of(self, kind: type[Kind]) -> Kind:
        """The exports of one kind, which must exist."""
        return next(exports for exports in self._kinds if isinstance(exports, kind))

    def __iter__(self) -> Iterator[Exports]:
        return iter(self._kinds)

    def list(self) -> list[Export]:
        """All exports, kind after kind."""
        return [export for exports in self for export in exports.list()]

    async def stop(self, deadline_s: float = END_S) -> None:
        """Ends all exports, side by side. Idempotent."""
        await asyncio.gather(*(exports.stop(deadline_s) for exports in self))
