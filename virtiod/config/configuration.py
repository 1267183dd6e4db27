"""The daemon's configuration file and state file: reads, makes, reloads and saves them.

At start the calls of the configuration file are made, then those of the state file that are about something else. A
reload makes the calls that are new in the file, and undoes those that were removed from it; it keeps what RPC made.

An absent device is no error: its controller is attached when the device appears, and then the calls that need its bdevs
are made. Any other failure ends a start. A reload reports it, and continues.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from virtiod.api.errors import NotSaved, RpcError
from virtiod.api.registry import Method
from virtiod.api.services import Calls
from virtiod.config.check import check_calls
from virtiod.config.document import Call, Identity, read_config
from virtiod.config.saved import running_identities, saved_document
from virtiod.config.saving import Saver
from virtiod.config.state import StateFile
from virtiod.core.errors import AlreadyExists, InvalidArgument, NotFound, VirtiodError
from virtiod.core.tasks import cancel, keep_going, spawn
from virtiod.core.threads import read_in_thread
from virtiod.system import System

logger = logging.getLogger(__name__)


@dataclass
class Changes:
    """What a reload did: names of what it created and deleted, methods that it called, and what failed."""

    created: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Configuration:
    """The files of one daemon: file (-c) and state, None for none. `failed` lists what could not be done.

    calls: the methods by which it makes them.
    """

    _system: System  # from start() on

    def __init__(self, calls: Calls, file: str | None, state: str | None) -> None:
        self.failed: list[str] = []
        self.also_read: list[Callable[[], None]] = []  # other files, on reload; each raises InvalidArgument
        self._calls = calls
        self._file = file
        self._state = StateFile(state) if state else None
        self._saver = Saver(self._state) if self._state else None
        self._made: dict[Identity, Call] = {}  # of the file
        self._said: set[str] = set()  # the same calls, spelt out
        self._kept: dict[Identity, Call] = {}  # of the state file, not to be made: they failed
        self._to_make: list[Call] = []
        self._waiting: list[Call] = []  # for a bdev
        self._changing = asyncio.Lock()
        self._bdev_came = asyncio.Event()
        self._late: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for a bdev."""
        return len(self._waiting)

    @property
    def unsaved(self) -> str:
        """Why the state file does not have the state; "" when it has, or when there is none."""
        return self._saver.unsaved if self._saver else ""

    # ---- start

    async def read(self) -> None:
        """Reads and checks the files. Raises InvalidArgument, which names the place of each error; DeadlineError."""
        if self._file:
            self._to_make = await self._read_file()
            self._made = {call.identity: call for call in self._to_make}
            self._said = {_spelt(call) for call in self._to_make}
        if self._state:
            kept = await read_in_thread(self._state.read, f"read {self._state.path}")
            self._to_make += [call for call in kept if call.identity not in self._made]

    async def _read_file(self) -> list[Call]:
        assert self._file
        calls = await read_in_thread(partial(read_config, self._file), f"read {self._file}")
        checked = check_calls(calls, self._calls.methods, at_start=True)
        for warning in checked.warnings():
            logger.warning("%s", warning)
        if checked.problems:
            raise InvalidArgument("\n".join(message for _, message in checked.problems))
        return checked.calls

    async def start(self, system: System) -> None:
        """Makes the calls that the daemon's state allows. Raises VirtiodError naming the call that failed."""
        self._system = system
        system.bdevs.on_event(self._bdev_changed)
        await self._start_with(self._to_make)

    async def resume(self) -> None:
        """Makes the calls that are left, in the running daemon, and saves the state from now on."""
        left, self._to_make = self._to_make, []
        await self._start_with(left)
        for call in self._to_make:
            logger.warning(
                "%s: %s was not called: it is possible only before framework_start_init", call.where, call.method
            )
        self._to_make = []
        late = "late calls of the configuration"
        self._late = spawn(keep_going(self._make_late, late), late)
        self._calls.on_change = self._save_change
        await self.save()

    async def _start_with(self, calls: list[Call]) -> None:
        self._to_make = []
        for call in calls:
            try:
                if self._calls.callable_now(call.method):
                    await self._make_or_wait(call)
                else:
                    self._to_make.append(call)
            except RpcError as error:
                message = f"{call.where} ({call.method}): {error.message}"
                if call.identity in self._made:
                    code = -error.code if -4096 < error.code < -1 else InvalidArgument.errno
                    raise VirtiodError(message, code) from error
                self._fail(message)
                self._kept[call.identity] = call

    async def close(self) -> None:
        """Ends: makes no more calls, and saves nothing."""
        self._waiting = []
        self._calls.on_change = None
        await cancel(self._late)
        if self._saver is not None:
            await self._saver.close()

    # ---- one call

    async def _make(self, call: Call) -> bool:
        """Makes a call; false if it has to wait for a bdev whose device is awaited. Raises RpcError."""
        entry = self._method(call.method)
        defaults = entry.in_config if entry else {}
        try:
            await self._calls.call(call.method, {**defaults, **call.params})
        except RpcError as error:
            if not (isinstance(error.__cause__, NotFound) and self._system.controllers.awaits_device):
                raise
            return False
        return True

    async def _make_or_wait(self, call: Call) -> bool:
        """Makes a call now, or later if it has to wait; false then. Raises RpcError."""
        made = await self._make(call)
        if not made:
            logger.warning("%s: %s waits for its bdev", call.where, call.method)
            self._waiting.append(call)
        return made

    def _method(self, name: str) -> Method | None:
        return self._calls.methods.get(name)

    def _undo(self, method: str) -> str:
        """The method that deletes what this one creates; "" if it creates nothing."""
        entry = self._method(method)
        return entry.undo if entry else ""

    def _fail(self, message: str) -> None:
        logger.error("%s", message)
        self.failed.append(message)

    def _bdev_changed(self, event: str, _name: str) -> None:
        if event == "bdev_register":
            self._bdev_came.set()

    async def _make_late(self) -> None:
        """Makes the waiting calls each time that a bdev was registered."""
        while True:
            await self._bdev_came.wait()
            self._bdev_came.clear()
            async with self._changing:
                waiting = len(self._waiting)
                for call in list(self._waiting):
                    await self._make_waiting(call)
            if len(self._waiting) < waiting:
                await self.save()

    async def _make_waiting(self, call: Call) -> None:
        try:
            made = await self._make(call)
        except RpcError as error:
            made = not isinstance(error.__cause__, NotFound)  # what it needs may be among those that come later
            if made:
                self._fail(f"{call.where} ({call.method}): {error.message}")
        if made:
            self._waiting.remove(call)

    # ---- reload

    async def reload(self) -> Changes:
        """Makes what has changed in the file. If the file can't be read, the reload fails and changes nothing."""
        changes = Changes()
        async with self._changing:
            self.failed = []
            for read_again in self.also_read:
                try:
                    await read_in_thread(read_again, "read other files again")
                except VirtiodError as error:
                    self._fail(str(error))
            if self._file:
                await self._reload_file(self._file, changes)
            changes.failed = list(self.failed)
        await self.save()
        logger.info(
            "configuration reloaded: created %s; deleted %s; called %s; %d failed",
            *(changes.created, changes.deleted, changes.called, len(changes.failed)),
        )
        return changes

    async def _reload_file(self, file: str, changes: Changes) -> None:
        try:
            calls = await read_in_thread(partial(read_config, file), f"read {file}")
        except VirtiodError as error:
            self._fail(str(error))
            return
        checked = check_calls(calls, self._calls.methods)
        for warning in checked.warnings():
            logger.warning("%s", warning)
        self._waiting = [call for call in self._waiting if call.identity not in self._made]
        for _, message in checked.problems:
            self._fail(message)
        wanted = {call.identity: call for call in checked.calls}
        # What is not valid now was valid before: it stays as it is.
        wrong = {call.identity for call, _ in checked.problems}
        stays = {key: call for key, call in self._made.items() if key in wrong}
        await self._delete(self._gone({**stays, **wanted}), changes)
        others = await self._create(checked.calls, changes)
        calls = [call for call in [*stays.values(), *checked.calls] if call.identity not in others]
        self._made = {call.identity: call for call in calls}
        self._said = {_spelt(call) for call in calls}

    def _gone(self, wanted: dict[Identity, Call]) -> list[Identity]:
        """What the file had created and does not have any more, or has with other parameters."""
        running = running_identities(self._system)
        return [
            key
            for key, call in self._made.items()
            if self._undo(key[0]) and key in running and (key not in wanted or wanted[key].params != call.params)
        ]

    async def _delete(self, gone: list[Identity], changes: Changes) -> None:
        """Deletes side by side, as some may take until their deadlines."""

        async def delete(key: Identity) -> None:
            name, undo = key[1], self._undo(key[0])
            try:
                await self._calls.call(undo, {"name": name})
            except RpcError as error:
                if not isinstance(error.__cause__, NotFound):  # it was deleted with what it belonged to
                    self._fail(f"{undo} {name}: {error.message}")
                    return
            changes.deleted.append(name)

        await asyncio.gather(*(delete(key) for key in gone))

    async def _create(self, wanted: Iterable[Call], changes: Changes) -> set[Identity]:
        """Returns the identities of what exists, but otherwise: RPC made it, and it stays."""
        others = set()
        running = running_identities(self._system)
        for call in wanted:
            creates = bool(self._undo(call.method))
            exists = creates and call.identity in running
            if _spelt(call) in self._said and exists == creates:
                continue
            try:
                made = await self._make_or_wait(call)
            except RpcError as error:
                self._fail(f"{call.where} ({call.method}): {error.message}")
                if isinstance(error.__cause__, AlreadyExists):
                    others.add(call.identity)
                continue
            if made and not exists:
                (changes.created if creates else changes.called).append(call.identity[1] or call.method)
        return others

    # ---- state

    async def save(self) -> None:
        """Writes what is not from the file to the state file, if there is one. The daemon continues if it can't:
        `unsaved` tells."""
        await self._save()

    async def _save_change(self) -> None:
        """Saves what a call may have changed. Raises NotSaved if it changed something that can't be written now."""
        if await self._save():
            raise NotSaved(self.unsaved)

    async def _save(self) -> bool:
        """Returns whether there is something that is not written, which was not known to be so before."""
        return self._saver is not None and await self._saver.save(self._document())

    def _document(self) -> dict[str, list[dict[str, object]]]:
        running = running_identities(self._system)
        absent = [*self._kept.values(), *(c for c in self._waiting if c.identity not in self._made)]
        return saved_document(self._system, self._made, [c for c in absent if c.identity not in running])


def _spelt(call: Call) -> str:
    return json.dumps([call.method, call.params], sort_keys=True)
