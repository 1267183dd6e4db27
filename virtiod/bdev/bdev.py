"""One bdev: its identity, its limits, and who has it open."""

from __future__ import annotations

import asyncio
import logging
import uuid as uuidlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.counters import BdevCounters, bdev_counters, channel_counters, latencies
from virtiod.bdev.histogram import Cuts
from virtiod.bdev.keeping import KeptChannels, OnLoss
from virtiod.bdev.use import Use, in_use, named
from virtiod.core.errors import NotFound
from virtiod.core.levels import NOTICE
from virtiod.core.sizes import check_geometry
from virtiod.poller.poller import Poller

log = logging.getLogger(__name__)

IO_TYPES = frozenset({"read", "write", "flush", "unmap", "write_zeroes"})
REMOVE_DEADLINE_S = 10.0


@dataclass(frozen=True)
class BdevInfo:
    """What a device says of itself. Sizes are in bytes unless said otherwise; 0 where a limit is not known."""

    block_size: int
    num_blocks: int
    read_only: bool = False
    write_cache: bool = False
    io_types: frozenset[str] = IO_TYPES
    product_name: str = "Null disk"
    serial: str = ""
    physical_block_size: int = 0
    optimal_io_size: int = 0
    max_transfer: int = 0
    max_segments: int = 0
    max_unmap: int = 0
    max_write_zeroes: int = 0

    def check(self) -> None:
        """Raises InvalidArgument for values that no block device can have."""
        check_geometry(self.block_size, self.num_blocks)


class BdevHandle:
    """A use of a bdev: its holder is told of resize and removal, and tells what it does. close() is idempotent."""

    def __init__(
        self,
        bdev: Bdev,
        use: Callable[[], Use],
        on_resize: Callable[[], None] | None,
        on_remove: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.bdev = bdev
        self.use = use
        self.on_resize = on_resize
        self.on_remove = on_remove

    def close(self) -> None:
        """Ends the use. The holder must have no I/O in flight, and submits none any more."""
        if self in self.bdev.handles:
            self.bdev.handles.remove(self)


@dataclass(eq=False)
class Bdev:
    """A named block device.

    channels must be connected to a device before the bdev is registered. driver_specific() returns what bdev_get_bdevs
    shows of this kind of device, by member. reset() resets the device, if it can: it drops its requests in flight.
    unit: the same for all bdevs that are paths to one unit; "" if that has no name by which to tell.
    """

    name: str
    info: BdevInfo
    channels: BdevChannels
    driver_specific: Callable[[], Mapping[str, object]] = dict
    aliases: list[str] = field(default_factory=list)
    uuid: str = ""
    unit: str = ""
    reset: Callable[[], Awaitable[None]] | None = None
    handles: list[BdevHandle] = field(default_factory=list)
    removing: bool = False

    def __post_init__(self) -> None:
        self.info.check()
        if not self.uuid:
            self.uuid = str(uuidlib.uuid4())
        i = self.info
        self.channels.configure(i.num_blocks * i.block_size, i.block_size, set(i.io_types), i.read_only, i.write_cache)

    @property
    def product_name(self) -> str:
        """The kind of bdev, for people and SPDK's clients."""
        return self.info.product_name

    @property
    def block_size(self) -> int:
        """Bytes."""
        return self.info.block_size

    @property
    def num_blocks(self) -> int:
        """The size in blocks of block_size."""
        return self.info.num_blocks

    @property
    def size(self) -> int:
        """Bytes."""
        return self.info.num_blocks * self.info.block_size

    @property
    def read_only(self) -> bool:
        """Whether writes fail with EPERM."""
        return self.info.read_only

    @property
    def write_cache(self) -> bool:
        """Whether written data may be lost until a flush."""
        return self.info.write_cache

    @property
    def keeps_writes(self) -> bool:
        """What was acknowledged is kept until it is flushed, and written again if the device is lost before."""
        return self.write_cache and isinstance(self.channels, KeptChannels) and self.channels.on_loss == OnLoss.KEEP

    @property
    def io_types(self) -> frozenset[str]:
        """Those of IO_TYPES that the bdev can do."""
        return self.info.io_types

    @property
    def claimed(self) -> bool:
        """Whether somebody has it open."""
        return bool(self.handles)

    def uses(self) -> list[Use]:
        """What each holder does with it now."""
        return [handle.use() for handle in self.handles]

    def open(
        self,
        use: Callable[[], Use],
        on_resize: Callable[[], None] | None = None,
        on_remove: Callable[[], Awaitable[None]] | None = None,
    ) -> BdevHandle:
        """Opens the bdev. use() says at any time what the holder does with it.

        on_remove is awaited before the bdev is removed, and must end all use, with a deadline.
        """
        if self.removing:
            raise NotFound(f"bdev {self.name} is being removed")
        handle = BdevHandle(self, use, on_resize, on_remove)
        self.handles.append(handle)
        return handle

    def update(self, info: BdevInfo, doubts: int | None = None) -> None:
        """Takes over what changed on the device: a new size holds for every later I/O, then every user is told.

        doubts: the channels' cache_doubts() of before the device was asked; None: those of now.
        """
        info.check()
        resized = info.num_blocks != self.info.num_blocks
        if info.write_cache != self.info.write_cache:
            log.info("bdev %s: the device's write cache is %s", self.name, "on" if info.write_cache else "off")
        self.info = info
        self.channels.resize(self.size)
        self.channels.settle_cache(info.write_cache, self.channels.cache_doubts() if doubts is None else doubts)
        if resized:
            for handle in list(self.handles):
                if handle.on_resize:
                    handle.on_resize()

    async def end_users(self) -> None:
        """Refuses new I/O and has every user end its use. Raises nothing: a user that stays is logged."""
        self.removing = True
        if cut_off := in_use(self.uses()):
            log.log(NOTICE, "bdev %s is being removed, which ends %s", self.name, named(cut_off))
        users = [h.on_remove() for h in self.handles if h.on_remove]
        results = await asyncio.gather(*(asyncio.wait_for(u, REMOVE_DEADLINE_S) for u in users), return_exceptions=True)
        for r in results:
            if isinstance(r, BaseException):
                log.warning("bdev %s: a user did not close it: %r", self.name, r)
        self.channels.close()

    def stats(self, cuts: Cuts | None = None) -> BdevCounters:
        """The sum over all channels. cuts: buckets below which latencies are counted."""
        return bdev_counters(self.channels, cuts)

    def channel_stats(self, cuts: Cuts | None = None) -> list[tuple[Poller, BdevCounters]]:
        """The counters of each channel, with its poller."""
        return list(zip(self.channels.pollers, channel_counters(self.channels, cuts), strict=True))

    def latencies(self, ops: Iterable[str]) -> list[int]:
        """How many I/Os of these operations ended, by the bucket of their latency. It takes milliseconds."""
        return latencies(self.channels, ops)

    def reset_extremes(self) -> None:
        """Forgets the smallest and largest latencies."""
        self.channels.reset_extremes()
