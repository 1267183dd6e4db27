"""The NBD exports of the daemon: created and deleted by name, offered on every listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from urllib.parse import quote

from virtiod.bdev import BdevHandle
from virtiod.bdev.use import exclusive
from virtiod.core.counted import counted
from virtiod.core.errors import AlreadyExists, Busy, InvalidArgument, NotFound
from virtiod.core.lograte import LogRate
from virtiod.core.names import check_name, quoted, unprintable
from virtiod.core.saved import SavedCall, check_same
from virtiod.core.tasks import spawn
from virtiod.exports.interface import END_S, ExportContext, Exports, ListenOptions
from virtiod.exports.nbd.export import Client, DataPlane, NbdExport
from virtiod.exports.nbd.handshake import ExportInfo, Refused
from virtiod.exports.nbd.listener import ListenAddress, Listener
from virtiod.exports.nbd.transmission import NbdDataPlane
from virtiod.exports.nbd.wire import MAX_STRING, Reply

log = logging.getLogger(__name__)

MAX_EXPORTS = 1024  # bounds the answer to one LIST
DEFAULT_CONNECTIONS = 64
MAX_CONNECTIONS = 1024


class NbdExports(Exports):
    """Exports by name. data_plane: None for the pollers of the context."""

    kind = NbdExport.kind
    title = NbdExport.title
    subsystem = "nbd"

    def __init__(self, context: ExportContext, data_plane: DataPlane | None = None) -> None:
        self._bdevs = context.bdevs
        self._data_plane = data_plane or NbdDataPlane(context.pollers)
        self._exports: dict[str, NbdExport] = {}
        self._handles: dict[str, BdevHandle] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._listeners: list[Listener] = []
        self._said = LogRate(log)

    # ---- operator

    async def start(self, options: ListenOptions, handed: socket.socket | None) -> None:
        if handed is not None:
            await self.serve(handed)
        if options.path and not _is_at(handed, options.path):
            await self.listen(ListenAddress.parse(f"unix:{options.path}"))
        if options.address:
            await self.listen(ListenAddress.parse(f"tcp:{options.address}"))

    async def listen(self, address: ListenAddress) -> None:
        """Offers all exports at `address`, until stop()."""
        self._listeners.append(await Listener.open(address, self, self._connect))

    async def serve(self, listener: socket.socket) -> None:
        """Offers all exports on a socket that listens already, until stop(); its path is not removed."""
        self._listeners.append(await Listener.take(listener, self, self._connect))

    async def create(
        self,
        bdev_name: str,
        name: str | None = None,
        *,
        read_only: bool = False,
        description: str = "",
        max_connections: int = DEFAULT_CONNECTIONS,
    ) -> NbdExport:
        """Offers a bdev as `name`; returns the export that exists if it is the same.

        name: None for what the bdev was found by, so that the same call is about the same export.

        Raises NotFound, AlreadyExists, InvalidArgument, or what opening the bdev raises.
        """
        bdev = self._bdevs.get(bdev_name)
        created = _call(bdev_name, name, read_only, description, max_connections)
        name = bdev_name if name is None else name
        validate(name, description, max_connections)
        existing = self._exports.get(name)
        if existing is not None:
            if existing.closing:
                raise AlreadyExists(f"NBD export {name!r} already exists, and is ending")
            asked = {"bdev_name": bdev.name, "read_only": read_only or bdev.read_only, "description": description}
            has = asdict(existing.description())
            check_same(f"NBD export {name!r}", has, {**asked, "max_connections": max_connections})
            return existing
        if len(self._exports) >= MAX_EXPORTS:
            raise Busy(f"there are {MAX_EXPORTS} NBD exports already")
        export_name = name

        async def removed() -> None:
            with contextlib.suppress(NotFound):  # deleted in the meantime
                await self.delete(export_name)

        export = NbdExport(
            name,
            bdev,
            self._data_plane,
            read_only=read_only,
            description=description,
            max_connections=max_connections,
            uris=self.uris,
            created=created,
        )
        self._handles[name] = bdev.open(export.use, on_resize=lambda: self._resized(export), on_remove=removed)
        self._exports[name] = export
        log.info("NBD export %s of bdev %s created", name, bdev.name)
        return export

    async def delete(self, name: str, deadline_s: float = END_S) -> None:
        """Ends the export and its connections: requests in flight are answered within deadline_s (seconds).

        Waits for a deletion that is under way already. Raises NotFound.
        """
        export = self._exports.get(name)
        if export is None:
            raise NotFound(f"no NBD export {name!r}")
        task = self._ending.get(name)
        if task is None:
            task = spawn(self._end(export, deadline_s), f"end NBD export {name}", awaited=True)
            self._ending[name] = task
        await asyncio.shield(task)

    async def _end(self, export: NbdExport, deadline_s: float) -> None:
        try:
            await export.end(deadline_s)
        finally:
            self._handles.pop(export.name).close()
            del self._exports[export.name], self._ending[export.name]
        log.info("NBD export %s deleted", export.name)

    def list(self) -> list[NbdExport]:
        return list(self._exports.values())

    def uris(self, export: NbdExport) -> Sequence[str]:
        """The NBD URIs of an export, one for each listener."""
        return [listener.address.uri(quote(export.name, safe="")) for listener in self._listeners]

    async def stop(self, deadline_s: float = END_S) -> None:
        """Closes the listeners, then ends all exports side by side. Idempotent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()
        await asyncio.gather(*(self.delete(name, deadline_s) for name in list(self._exports)))

    def _resized(self, export: NbdExport) -> None:
        """Logs a new size. NBD tells it once, at GO: connected clients keep theirs, and I/O beyond the end fails."""
        log.info("NBD export %s: its bdev has %d bytes now", export.name, export.info().size)

    # ---- clients: the Directory of the handshake

    def offered(self) -> Iterator[ExportInfo]:
        return (export.info() for export in self._exports.values() if not export.closing)

    def find(self, name: str, *, to_connect: bool) -> ExportInfo:
        export = self._exports.get(name)
        if export is None and not name and len(self._exports) == 1:
            (export,) = self._exports.values()
        if export is None:
            what = f"no export {name!r}" if name else f"no default export among {len(self._exports)}"
            raise Refused(Reply.ERR_UNKNOWN, what)
        if export.closing:
            raise Refused(Reply.ERR_SHUTDOWN, f"export {export.name!r} is ending")
        if to_connect and len(export.clients) >= export.max_connections:
            limit = f"export {export.name!r} has its {counted(export.max_connections, 'connection')}"
            raise Refused(Reply.ERR_POLICY, limit)
        if to_connect and (writer := exclusive(self._bdevs.uses(export.bdev))):
            told = "NBD export %s: a client was refused: its bdev is written by %s"
            self._said.say(logging.WARNING, (export.name, writer), told, export.name, writer)
            raise Refused(Reply.ERR_POLICY, f"export {export.name!r}: its bdev is written by {writer}")
        return export.info()

    def _connect(self, name: str, peer: str) -> Client:
        """Reserves a connection for the client that has just chosen `name`."""
        return self._exports[name].admit(peer)


def _is_at(listener: socket.socket | None, path: str) -> bool:
    return listener is not None and listener.family == socket.AF_UNIX and listener.getsockname() == path


def _call(bdev_name: str, name: str | None, read_only: bool, description: str, max_connections: int) -> SavedCall:
    """The call that asks for an export, without defaults.

    It names the bdev as it was asked for: by its UUID, it is that disk's, whatever name that gets. read_only
    is what was asked for: a disk that can't be written now may be writable one day.
    """
    params: dict[str, object] = {"bdev_name": bdev_name}
    if name is not None:
        params["name"] = name
    if read_only:
        params["read_only"] = True
    if description:
        params["description"] = description
    if max_connections != DEFAULT_CONNECTIONS:
        params["max_connections"] = max_connections
    return SavedCall("nbd_create_export", params)


def validate(name: str, description: str, max_connections: int) -> None:
    """Checks the parameters of an export; raises InvalidArgument."""
    check_name("name", name)
    if found := unprintable(description):
        raise InvalidArgument(f"description {quoted(description)}: holds {found}, which can't be printed")
    if len(description.encode()) > MAX_STRING:
        raise InvalidArgument(f"description must have 0 to {MAX_STRING} bytes of UTF-8")
    if not 1 <= max_connections <= MAX_CONNECTIONS:
        raise InvalidArgument(f"max_connections {max_connections}: must be 1 to {MAX_CONNECTIONS}")
