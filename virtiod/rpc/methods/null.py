"""Methods about null bdevs."""

from __future__ import annotations

import errno
import uuid as uuidlib
from typing import Annotated

from virtiod.api.params import MAX_UINT32, Arg, Name
from virtiod.api.registry import method
from virtiod.core.described import Member
from virtiod.core.errors import InvalidArgument
from virtiod.core.names import quoted
from virtiod.system import System

MAX_BLOCKS = (1 << 63) - 1


@method(
    undo="bdev_null_delete",
    errors={-errno.EEXIST: "a bdev has that name or UUID", -errno.EINVAL: "a size or UUID that is not valid"},
)
async def bdev_null_create(
    system: System,
    name: Annotated[str, Name("name of the bdev", "name")],
    num_blocks: Annotated[int, Arg("capacity in blocks", "num_blocks", 1, MAX_BLOCKS)],
    block_size: Annotated[int, Arg("bytes of a block", "-b/--block-size", 512, MAX_UINT32)] = 512,
    uuid: Annotated[str | None, Arg("of the bdev (default, and for the nil UUID: a random one)", "-u/--uuid")] = None,
) -> Annotated[str, Member("its name")]:
    """Creates a bdev that reads as zeroes and keeps nothing; its I/O succeeds at once.

    It serves to measure everything but a device.
    """
    if uuid is not None:
        try:
            given = uuidlib.UUID(uuid)
        except ValueError:
            raise InvalidArgument(f"uuid {quoted(uuid)}: not a UUID") from None
        uuid = str(given) if given.int else ""
    system.nulls.create(name, num_blocks, block_size, uuid or "")
    return name


@method(errors={-errno.ENODEV: "there is no such bdev", -errno.EINVAL: "it is no null bdev"})
async def bdev_null_delete(system: System, name: Annotated[str, Name("bdev", "name")]) -> bool:
    """Deletes a null bdev. What uses it is ended first."""
    await system.nulls.delete(name)
    return True
