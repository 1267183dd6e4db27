"""All bdevs by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from virtiod.bdev.bdev import Bdev, BdevInfo
from virtiod.core.errors import AlreadyExists, DeadlineError, NotFound
from virtiod.core.lograte import LogRate

log = logging.getLogger(__name__)

EVENTS = ("bdev_register", "bdev_unregister", "bdev_resize", "bdev_writes_lost")


class BdevRegistry:
    """The bdevs that exist. Event-loop thread only."""

    def __init__(self) -> None:
        self._bdevs: dict[str, Bdev] = {}
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
        found = self._bdevs.get(name)
        if found is None:
            found = next((b for b in self._bdevs.values() if name in {b.uuid, *b.aliases}), None)
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

    def check_free(self, name: str) -> None:
        """Raises AlreadyExists if the name is taken."""
        if name in self._bdevs:
            raise AlreadyExists(f"bdev '{name}' already exists")

    def register(self, bdev: Bdev) -> None:
        """Adds the bdev; raises AlreadyExists."""
        self.check_free(bdev.name)
        self._bdevs[bdev.name] = bdev
        self._arrived.set()
        self._tell("bdev_register", bdev.name)

    async def unregister(self, bdev: Bdev) -> None:
        """Ends all use of the bdev, then removes it."""
        await bdev.end_users()
        self._said.forget_state(bdev.name)
        if self._bdevs.pop(bdev.name, None) is not None:
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
