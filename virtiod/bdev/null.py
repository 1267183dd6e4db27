"""Null bdevs: disks without data. They serve to measure the code above them, and need no target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from virtiod.bdev.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.bdev.registry import BdevRegistry
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.core.saved import SavedCall, check_same
from virtiod.poller.poller import Poller

PRODUCT_NAME = "Null disk"


class NullBdevs:
    """Creates and deletes null bdevs, on all pollers. Event-loop thread only."""

    def __init__(self, pollers: Sequence[Poller], bdevs: BdevRegistry) -> None:
        self._pollers = pollers
        self._bdevs = bdevs

    def create(self, name: str, num_blocks: int, block_size: int = 512, uuid: str = "") -> Bdev:
        """Registers a null bdev; returns the one that exists if it is the same.

        uuid: "" for a random one. Raises AlreadyExists, or InvalidArgument for a size that is not valid.
        """
        existing = self._existing(name)
        if existing is not None:
            has = {"num_blocks": existing.num_blocks, "block_size": existing.block_size, "uuid": existing.uuid}
            asked = {"num_blocks": num_blocks, "block_size": block_size, "uuid": uuid or None}
            check_same(f"bdev '{name}'", has, asked)
            return existing
        self._bdevs.check_free(name, uuid)
        channels = BdevChannels(list(self._pollers))
        connect_null(channels)
        bdev = Bdev(
            name=name,
            info=BdevInfo(block_size=block_size, num_blocks=num_blocks, product_name=PRODUCT_NAME),
            channels=channels,
            uuid=uuid,
        )
        self._bdevs.register(bdev)
        return bdev

    def _existing(self, name: str) -> Bdev | None:
        """The null bdev of exactly that name, unless it is being removed."""
        try:
            bdev = self._bdevs.get(name)
        except NotFound:
            return None
        return bdev if bdev.name == name and bdev.product_name == PRODUCT_NAME and not bdev.removing else None

    async def delete(self, name: str) -> None:
        """Ends its users, then removes it. Raises NotFound, or InvalidArgument for a bdev of another kind."""
        bdev = self._bdevs.get(name)
        if bdev.product_name != PRODUCT_NAME:
            raise InvalidArgument(f"bdev '{name}' is a {bdev.product_name}, not a null bdev")
        await self._bdevs.unregister(bdev)

    def saved_calls(self) -> Iterator[SavedCall]:
        """The calls that create the null bdevs."""
        for bdev in self._bdevs.list():
            if bdev.product_name == PRODUCT_NAME:
                params = {"name": bdev.name, "num_blocks": bdev.num_blocks, "block_size": bdev.block_size}
                yield SavedCall("bdev_null_create", {**params, "uuid": bdev.uuid})
