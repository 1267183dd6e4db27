"""All bdevs by name.

A bdev's name, UUID and aliases are its identities: whatever finds one bdev finds no other. Where an operator chooses
them, what is taken is refused. What a device calls itself may be known already, as one disk can be reached on several
paths: then a bdev is registered without what another one has (free(), free_uuid()).
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import uuid as uuidlib
from collections.abc import Callable, Iterable, Iterator

from virtiod.bdev.bdev import Bdev, BdevInfo
from virtiod.bdev.use import Use
from virtiod.core.errors import AlreadyExists, DeadlineError, NotFound
from virtiod.core.lograte import LogRate

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

EVENTS = ("bdev_register", "bdev_unregister", "bdev_resize", "bdev_writes_lost")


class BdevRegistry:
    """The bdevs that exist. Event-loop thread only."""

    def __init__(self) -> None:
        self._bdevs: dict[str, Bdev] = {}
        self._found_by: dict[str, Bdev] = {}  # by all identities, as bdev_key() has them
        self._paths: dict[str, list[Bdev]] = {}  # by the unit that they lead to
        self._listeners: list[Callable[[str, str], None]] = []
        self._arrived = asyncio.Event()
        self._said = LogRate(log)

    def on_event(self, listener: Callable[[str, str], None]) -> None:
        """Has listener(type, bdev name) called after each change; type is one of EVENTS."""
        self._listeners.append(listener)

    def _tell(self, event: str, name: str) -> None:
        for listener in self._listeners:
            listener(event, name)

    def list(self) -> list[Bdev]:
        """All bdevs, in the order of their registration."""
        return list(self._bdevs.values())

    def get(self, name: str) -> Bdev:
        """The bdev with that name, alias or uuid; raises NotFound."""
        found = self._found_by.get(bdev_key(name))
        if found is None:
            raise NotFound(f"bdev '{name}' does not exist")
        return found

    async def wait_for(self, name: str, timeout_s: float) -> Bdev:
        """The bdev, as soon as it exists; raises DeadlineError."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._arrived.clear()
                    try:
                        return self.get(name)
                    except NotFound:
                        await self._arrived.wait()
        except TimeoutError:
            raise DeadlineError(f"bdev '{name}' did not appear within {timeout_s:g} s") from None

    def check_free(self, *names: str) -> None:
        """Raises AlreadyExists if one of these is the name, the UUID or an alias of a bdev."""
        for name in names:
            if holder := self._found_by.get(bdev_key(name)):
                raise AlreadyExists(f"bdev '{name}' already exists" if name == holder.name else _taken(name, holder))

    def free(self, names: Iterable[str]) -> Iterator[str]:
        """Those of the names, UUIDs or aliases that no bdev has."""
        return (name for name in names if bdev_key(name) not in self._found_by)

    def free_uuid(self, wanted: Iterable[str]) -> str:
        """The first of the UUIDs that no bdev has; a random one if all are taken."""
        return next(self.free(wanted), str(uuidlib.uuid4()))

    def paths(self, unit: str) -> tuple[Bdev, ...]:
        """The bdevs that lead to this unit."""
        return tuple(self._paths.get(unit, ()))

    def uses(self, bdev: Bdev) -> builtins.list[Use]:
        """The uses of a bdev, and those of other bdevs that lead to the same unit."""
        others = (path for path in self.paths(bdev.unit) if path is not bdev)
        return [use for one in (bdev, *others) for use in one.uses()]

    def register(self, bdev: Bdev) -> None:
        """Adds the bdev. Raises AlreadyExists if another one has its name, its UUID or one of its aliases."""
        self.check_free(bdev.name, bdev.uuid, *bdev.aliases)
        self._bdevs[bdev.name] = bdev
        self._found_by |= dict.fromkeys(_keys(bdev), bdev)
        if bdev.unit:
            self._paths.setdefault(bdev.unit, []).append(bdev)
        self._arrived.set()
        self._tell("bdev_register", bdev.name)

    async def unregister(self, bdev: Bdev) -> None:
        """Ends all use of the bdev, then removes it."""
        await bdev.end_users()
        self._said.forget_state(bdev.name)
        if self._bdevs.pop(bdev.name, None) is not None:
            for key in _keys(bdev):
                del self._found_by[key]
            if bdev.unit:
                self._paths[bdev.unit].remove(bdev)
                if not self._paths[bdev.unit]:
                    del self._paths[bdev.unit]
            self._tell("bdev_unregister", bdev.name)

    def update(self, bdev: Bdev, info: BdevInfo, doubts: int | None = None) -> None:
        """Takes over what changed on the device, and tells listeners. doubts: as of Bdev.update()."""
        before, size = bdev.num_blocks, bdev.size
        bdev.update(info, doubts)
        if bdev.num_blocks != before:
            message = "bdev %s: it has %d bytes now, it had %d"
            self._said.say_state(logging.WARNING, bdev.name, bdev.size, message, bdev.name, bdev.size, size)
            self._tell("bdev_resize", bdev.name)

    def tell_loss(self, bdev: Bdev) -> None:
        """Writes that were acknowledged are lost."""
        self._tell("bdev_writes_lost", bdev.name)


def bdev_key(name: str) -> str:
    """What a bdev is found by. A UUID is the same in capital letters."""
    return name.lower() if _UUID.fullmatch(name) else name


def _keys(bdev: Bdev) -> set[str]:
    return {bdev_key(name) for name in (bdev.name, bdev.uuid, *bdev.aliases)}


def _taken(name: str, holder: Bdev) -> str:
    key = bdev_key(name)
    what = "the UUID" if key == holder.uuid else "the name" if key == bdev_key(holder.name) else "an alias"
    return f"'{name}' is {what} of bdev '{holder.name}' already"
