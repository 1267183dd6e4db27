"""Methods about bdevs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET

from virtiod.api.params import MAX_UINT32, Arg, Name
from virtiod.api.registry import State, method
from virtiod.api.results.bdev import BdevDescription, BdevUser, DriverSpecific, IoStat, RateLimits
from virtiod.core.described import Member
from virtiod.core.errors import InvalidArgument, NotSupported
from virtiod.core.ticks import TICK_RATE, now_ns
from virtiod.system import System

if TYPE_CHECKING:
    from virtiod.bdev.bdev import Bdev
    from virtiod.bdev.use import Use

# In the order of SPDK's own enumeration.
_IO_TYPES = (
    "read",
    "write",
    "unmap",
    "flush",
    "reset",
    "nvme_admin",
    "nvme_io",
    "nvme_io_md",
    "write_zeroes",
    "zcopy",
    "get_zone_info",
    "zone_management",
    "zone_append",
    "compare",
    "compare_and_write",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
    "nvme_iov_md",
)

ResetMode = Literal["all", "maxmin", "error", "none"]
MAX_WAIT_MS = 24 * 3600 * 1000
NO_BDEV = {-errno.ENODEV: "there is no such bdev"}


@method(passive=True, reads=True, errors={**NO_BDEV, -errno.ETIMEDOUT: "it did not appear in time"})
async def bdev_get_bdevs(
    system: System,
    name: Annotated[str | None, Name("only this bdev: a name, alias or UUID", "-b/--name")] = None,
    timeout: Annotated[int, Arg("ms to wait for it to appear", "-t/--timeout-ms", 0, MAX_WAIT_MS)] = 0,
) -> Annotated[list[BdevDescription], Member("in the order of registration; also for one bdev")]:
    """Describes the bdevs."""
    if name is None:
        return [_describe(bdev) for bdev in system.bdevs.list()]
    if timeout:
        return [_describe(await system.bdevs.wait_for(name, timeout / 1000))]
    return [_describe(system.bdevs.get(name))]


def _describe(bdev: Bdev) -> BdevDescription:
    return BdevDescription(
        name=bdev.name,
        aliases=list(bdev.aliases),
        product_name=bdev.product_name,
        block_size=bdev.block_size,
        num_blocks=bdev.num_blocks,
        uuid=bdev.uuid,
        assigned_rate_limits=RateLimits(),
        claimed=bdev.claimed,
        users=[_user(use) for use in bdev.uses()] or UNSET,
        zoned=False,
        read_only=bdev.read_only,
        write_cache=bdev.write_cache,
        supported_io_types={io_type: io_type in bdev.io_types for io_type in _IO_TYPES},
        driver_specific=msgspec.convert(bdev.driver_specific(), DriverSpecific, from_attributes=True),
    )


def _user(use: Use) -> BdevUser:
    return BdevUser(kind=use.kind, name=use.name, access=use.access, read_only=use.read_only, clients=list(use.clients))


@method(
    reads=True,
    changing=["reset_mode"],
    errors={**NO_BDEV, -errno.EINVAL: "parameters that exclude each other, or per_channel without one bdev"},
)
async def bdev_get_iostat(
    system: System,
    names: Annotated[list[str] | None, Name("only these bdevs", "--names")] = None,
    name: Annotated[str | None, Name("only this bdev; of older clients", "-b/--name")] = None,
    per_channel: Annotated[bool, Arg("by channel, for one bdev", "-c/--per-channel")] = False,
    reset_mode: Annotated[ResetMode, Arg("what to reset after reading", "--reset-mode")] = "none",
) -> IoStat:
    """Returns I/O statistics."""
    if names is not None and name is not None:
        raise InvalidArgument("give either 'names' or 'name'")
    wanted = [name] if name is not None else names
    bdevs = system.bdevs.list() if wanted is None else [system.bdevs.get(one) for one in wanted]
    if per_channel and (wanted is None or len(bdevs) != 1):
        raise InvalidArgument("per_channel needs the name of one bdev")
    result = IoStat(
        tick_rate=TICK_RATE,
        ticks=now_ns(),
        name=bdevs[0].name if per_channel else UNSET,
        channels=system.iostats.channels(bdevs[0]) if per_channel else UNSET,
        bdevs=UNSET if per_channel else [system.iostats.device(bdev) for bdev in bdevs],
    )
    for bdev in bdevs:
        system.iostats.reset(bdev, reset_mode)
    return result


@method(errors=NO_BDEV)
async def bdev_reset_iostat(
    system: System,
    name: Annotated[str | None, Name("only this bdev", "-b/--name")] = None,
    mode: Annotated[ResetMode, Arg("what to reset", "-m/--mode")] = "all",
) -> bool:
    """Resets what bdev_get_iostat shows. Metrics are not affected."""
    for bdev in system.bdevs.list() if name is None else [system.bdevs.get(name)]:
        system.iostats.reset(bdev, mode)
    return True


@method(errors=NO_BDEV, uses="name")
async def bdev_set_qd_sampling_period(
    system: System,
    name: Annotated[str, Name("bdev", "name")],
    period: Annotated[int, Arg("microseconds; 0 hides the queue depth", "period")],
) -> bool:
    """Sets the period that bdev_get_iostat names. The queue depth and I/O times that it shows are exact anyway."""
    system.iostats.set_qd_period(system.bdevs.get(name), period)
    return True


@method(
    errors={
        **NO_BDEV,
        -errno.EOPNOTSUPP: "its device can't be reset",
        -errno.EIO: "the device refused",
        -errno.ETIMEDOUT: "the device did not answer in time",
        -errno.ENOTCONN: "the device was lost",
    }
)
async def bdev_reset(system: System, name: Annotated[str, Name("bdev", "name")]) -> bool:
    """Resets a bdev's unit: it drops its commands in flight, which are then sent again.

    SCSI disks know LOGICAL UNIT RESET; others can't be reset.
    """
    bdev = system.bdevs.get(name)
    if bdev.reset is None:
        raise NotSupported(f"bdev {bdev.name} ({bdev.product_name}) can't be reset")
    await bdev.reset()
    return True


@method(State.STARTUP)
async def bdev_set_options(
    system: System,
    bdev_io_pool_size: Annotated[int | None, Arg("remembered only", "-p/--bdev-io-pool-size", 0, MAX_UINT32)] = None,
    bdev_io_cache_size: Annotated[int | None, Arg("remembered only", "-c/--bdev-io-cache-size", 0, MAX_UINT32)] = None,
    bdev_auto_examine: Annotated[bool | None, Arg("remembered only", "--auto-examine")] = None,
    iobuf_small_cache_size: Annotated[
        int | None, Arg("remembered only", "--iobuf-small-cache-size", 0, MAX_UINT32)
    ] = None,
    iobuf_large_cache_size: Annotated[
        int | None, Arg("remembered only", "--iobuf-large-cache-size", 0, MAX_UINT32)
    ] = None,
) -> bool:
    """Takes the options of SPDK's bdev layer, so that its configuration files can be used.

    virtiod sizes its pools by itself: the values are kept and saved, and change nothing.
    """
    given = {
        "bdev_io_pool_size": bdev_io_pool_size,
        "bdev_io_cache_size": bdev_io_cache_size,
        "bdev_auto_examine": bdev_auto_examine,
        "iobuf_small_cache_size": iobuf_small_cache_size,
        "iobuf_large_cache_size": iobuf_large_cache_size,
    }
    system.bdev_options.values.update({name: value for name, value in given.items() if value is not None})
    return True


@method(reads=True)
async def bdev_wait_for_examine() -> bool:
    """Answers when all bdevs were examined: at once, as nothing is built on top of bdevs."""
    return True
