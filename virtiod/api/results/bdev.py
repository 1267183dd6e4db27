"""Results of the methods about bdevs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.bdev.iostat import BdevIoStat, ChannelIoStat
from virtiod.bdev.use import Access
from virtiod.controllers.description import BlkUnit, ScsiUnit, VirtioDescription
from virtiod.core.described import Member


@dataclass(kw_only=True)
class RateLimits:
    """Limits of a bdev's I/O: virtiod has none."""

    rw_ios_per_sec: Annotated[int, Member("always 0")] = 0
    rw_mbytes_per_sec: Annotated[int, Member("always 0")] = 0
    r_mbytes_per_sec: Annotated[int, Member("always 0")] = 0
    w_mbytes_per_sec: Annotated[int, Member("always 0")] = 0


@dataclass(kw_only=True)
class DriverSpecific:
    """What only bdevs of one kind have."""

    virtio: Annotated[VirtioDescription | UnsetType, Member("its controller, if it is a virtio disk")] = UNSET
    blk: Annotated[BlkUnit | UnsetType, Member("the disk, if that is virtio-blk")] = UNSET
    scsi: Annotated[ScsiUnit | UnsetType, Member("the disk, if that is virtio-scsi")] = UNSET


@dataclass(kw_only=True)
class BdevUser:
    """Who has a bdev open: an export, for its clients, or a load."""

    kind: Annotated[str, Member('"load", or the kind of an export: "nbd"')]
    name: Annotated[str, Member("name of the export, or pattern of the load")]
    access: Annotated[Access, Member("what it may do now; none: an export without clients")]
    read_only: Annotated[bool, Member("an export that refuses writes")]
    clients: Annotated[list[str], Member("of an export, each once: process and user, or address")]


@dataclass(kw_only=True)
class BdevDescription:
    """A block device."""

    name: Annotated[str, Member("its name")]
    aliases: Annotated[list[str], Member("other names of it")]
    product_name: Annotated[str, Member("what kind of bdev it is")]
    block_size: Annotated[int, Member("size of a block", "bytes")]
    num_blocks: Annotated[int, Member("capacity", "blocks")]
    uuid: Annotated[str, Member("the same for the same disk")]
    assigned_rate_limits: Annotated[RateLimits, Member("there are none")]
    claimed: Annotated[bool, Member("somebody has it open: an export, a load")]
    zoned: Annotated[bool, Member("always false")]
    read_only: Annotated[bool, Member("it refuses writes")]
    write_cache: Annotated[bool, Member("what is written may be lost with power until it is flushed")]
    supported_io_types: Annotated[dict[str, bool], Member("whether it takes I/O of each type that SPDK knows")]
    driver_specific: Annotated[DriverSpecific, Member("what only its kind has")]
    users: Annotated[list[BdevUser] | UnsetType, Member("who has it open; absent when nobody has")] = UNSET


@dataclass(kw_only=True)
class IoStat:
    """I/O statistics: of bdevs, or with per_channel of the channels of one."""

    tick_rate: Annotated[int, Member("ticks per second")]
    ticks: Annotated[int, Member("when this was, on a monotonic clock", "ticks")]
    name: Annotated[str | UnsetType, Member("with per_channel, name of the bdev")] = UNSET
    channels: Annotated[list[ChannelIoStat] | UnsetType, Member("with per_channel, one for each poller")] = UNSET
    bdevs: Annotated[list[BdevIoStat] | UnsetType, Member("without per_channel")] = UNSET
