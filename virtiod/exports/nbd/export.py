"""NBD exports, each of one bdev, and the clients that are connected to them.

An export ends in order: it takes no new client and no new request; it answers the requests in flight; it closes the
connections. After the deadline it shuts the sockets down, and logs the I/O that the device still holds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from virtiod.bdev import Bdev
from virtiod.bdev.use import some
from virtiod.core.counted import counted
from virtiod.core.described import Member
from virtiod.core.levels import NOTICE
from virtiod.core.lograte import LogRate
from virtiod.core.saved import SavedCall
from virtiod.exports.interface import Export, ExportCounters
from virtiod.exports.nbd.handshake import ExportInfo
from virtiod.exports.nbd.wire import TransmissionFlag

log = logging.getLogger(__name__)

ABORT_S = 1.0  # for connections to end once their sockets are shut down
PREFERRED_SIZE = 4096
_TROUBLE = ("cut off", "sent an invalid request", "the poller has too many")  # of the reasons why a client left

_said = LogRate(log)


class Transmission(Protocol):
    """A connection in its transmission phase, run by a poller."""

    @property
    def poller_name(self) -> str: ...

    def counters(self) -> ExportCounters: ...

    def stop(self) -> None:
        """Takes no more requests, answers those in flight, then closes."""

    def abort(self) -> None:
        """Shuts the socket down: nothing more is answered. It ends when the I/Os in flight have."""


class DataPlane(Protocol):
    """What runs transmissions."""

    @property
    def max_payload(self) -> int:
        """Bytes of the longest READ or WRITE."""

    def start(
        self,
        sock: socket.socket,
        export: NbdExport,
        *,
        leftover: bytes,
        structured: bool,
        on_end: Callable[[str], None],
    ) -> Transmission:
        """Takes over `sock`, also when it raises. `on_end(reason)` is called once, on the event loop."""
        ...


@dataclass(kw_only=True)
class NbdExportDescription:
    """An NBD export."""

    name: Annotated[str, Member("its name")]
    bdev_name: Annotated[str, Member("the bdev that it offers")]
    size: Annotated[int, Member("capacity", "bytes")]
    block_size: Annotated[int, Member("the smallest that clients may use", "bytes")]
    read_only: Annotated[bool, Member("it refuses writes")]
    description: Annotated[str, Member("shown to clients that list exports")]
    max_connections: Annotated[int, Member("most connections at the same time")]
    connections: Annotated[int, Member("clients that are connected")]
    uris: Annotated[list[str], Member("where clients find it")]


class Client:
    """One client of an export, from its GO until its connection is gone."""

    def __init__(self, export: NbdExport, peer: str) -> None:
        self.export = export
        self.peer = peer
        self.transmission: Transmission | None = None
        self.ended = False

    def start(self, sock: socket.socket, leftover: bytes, structured: bool) -> None:
        """Hands the socket to a poller, unless the export has ended since the client chose it. Owns the socket."""
        if self.ended or self.export.closing:
            sock.close()
            self.end("the export ended")
            return
        try:
            self.transmission = self.export.data_plane.start(
                sock, self.export, leftover=leftover, structured=structured, on_end=self.end
            )
        except BaseException:
            self.end("could not start")
            raise
        log.info("%s: connected to NBD export %s", self.peer, self.export.name)

    def counters(self) -> ExportCounters:
        return self.transmission.counters() if self.transmission else ExportCounters()

    def end(self, reason: str) -> None:
        """Ends the client, whose connection is gone: adds its counters to the export's. Idempotent."""
        if self.ended:
            return
        self.ended = True
        self.export.forget(self)
        level = logging.WARNING if reason.startswith(_TROUBLE) else logging.INFO
        _said.say(level, (self.export.name, reason), "%s: left NBD export %s: %s", self.peer, self.export.name, reason)


class NbdExport(Export):
    """One bdev under one name. uris: its NBD URIs. created: the call that asked for it."""

    kind = "nbd"
    title = "NBD"

    def __init__(
        self,
        name: str,
        bdev: Bdev,
        data_plane: DataPlane,
        *,
        read_only: bool,
        description: str,
        max_connections: int,
        uris: Callable[[NbdExport], Sequence[str]],
        created: SavedCall,
    ) -> None:
        self.name = name
        self.bdev = bdev
        self.data_plane = data_plane
        self.read_only = read_only or bdev.read_only
        self.text = description  # shown to clients that list exports
        self.max_connections = max_connections
        self._uris = uris
        self._created = created
        self.closing = False
        self.clients: list[Client] = []
        self._past = ExportCounters()
        self._empty = asyncio.Event()
        self._empty.set()

    def info(self) -> ExportInfo:
        """The export as the bdev is now: its size may have changed since the last client."""
        bdev = self.bdev
        return ExportInfo(
            name=self.name,
            description=self.text,
            size=bdev.size,
            flags=transmission_flags(bdev.io_types, self.read_only),
            block_size=bdev.block_size,
            preferred_size=max(bdev.block_size, PREFERRED_SIZE),
            max_payload=self.data_plane.max_payload,
        )

    @property
    def connections(self) -> int:
        return len(self.clients)

    @property
    def peers(self) -> Sequence[str]:
        return list(dict.fromkeys(client.peer for client in self.clients))

    def description(self) -> NbdExportDescription:
        return NbdExportDescription(
            name=self.name,
            bdev_name=self.bdev.name,
            size=self.bdev.size,
            block_size=self.bdev.block_size,
            read_only=self.read_only,
            description=self.text,
            max_connections=self.max_connections,
            connections=self.connections,
            uris=list(self._uris(self)),
        )

    def saved_call(self) -> SavedCall:
        return self._created

    def counters(self) -> ExportCounters:
        return add([self._past, *(client.counters() for client in self.clients)])

    def admit(self, peer: str) -> Client:
        """Reserves one of the connections for a client that is about to start."""
        client = Client(self, peer)
        self.clients.append(client)
        self._empty.clear()
        return client

    def forget(self, client: Client) -> None:
        self._past = add([self._past, client.counters()])
        self.clients.remove(client)
        if not self.clients:
            self._empty.set()

    async def end(self, deadline_s: float) -> None:
        """Ends all connections as the module's docstring says. Always returns within deadline_s + ABORT_S."""
        self.closing = True
        if self.clients:
            log.log(NOTICE, "NBD export %s ends, and with it the connections of %s", self.name, some(self.peers))
        for client in list(self.clients):
            if client.transmission:
                client.transmission.stop()
        if await self._emptied(deadline_s):
            return
        for client in list(self.clients):
            if client.transmission:
                client.transmission.abort()
        if await self._emptied(ABORT_S):
            log.warning("NBD export %s: clients were cut off after %g s", self.name, deadline_s)
            return
        log.error(
            "NBD export %s: gave up %s of %s that did not complete within %g s",
            self.name,
            counted(self.counters().in_flight, "I/O"),
            counted(len(self.clients), "client"),
            deadline_s,
        )

    async def _emptied(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True


def transmission_flags(io_types: Collection[str], read_only: bool) -> TransmissionFlag:
    """What the export can do ("Transmission flags").

    A flush of one connection covers all, as the bdev has no cache of its own: CAN_MULTI_CONN always holds. The bdev
    offers FUA on any device.
    """
    flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.CAN_MULTI_CONN
    flags |= TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA
    if read_only:
        return flags | TransmissionFlag.READ_ONLY
    if "unmap" in io_types:
        flags |= TransmissionFlag.SEND_TRIM
    if "write_zeroes" in io_types:
        flags |= TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO
    return flags


def add(counters: Sequence[ExportCounters]) -> ExportCounters:
    return ExportCounters(*(sum(column) for column in zip(*counters, strict=True)))
