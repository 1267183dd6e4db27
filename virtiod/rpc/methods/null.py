"""Methods about null bdevs."""

from __future__ import annotations

import errno
import re
import uuid as uuidlib
from collections.abc import Mapping
from typing import Annotated

from virtiod.api.params import MAX_UINT32, Arg, Name
from virtiod.api.registry import Made, method
from virtiod.bdev.registry import bdev_key
from virtiod.core.described import Member
from virtiod.core.errors import InvalidArgument, NotSupported
from virtiod.core.names import quoted
from virtiod.core.sizes import check_geometry
from virtiod.system import System

MAX_BLOCKS = (1 << 63) - 1
DEFAULT_BLOCK_SIZE = 512


# What SPDK's null bdevs can have and these do not -> the value that asks for none of it.
_OFF: dict[str, object] = {
    "md_size": 0,
    "dif_type": 0,
    "dif_is_head_of_md": False,
    "dif_pi_format": 0,
    "preferred_write_granularity": 0,
    "preferred_write_alignment": 0,
    "optimal_write_size": 0,
    "preferred_unmap_granularity": 0,
    "preferred_unmap_alignment": 0,
}
_Off = Annotated[int, Arg("of SPDK's; only 0, which is none", "", 0, MAX_UINT32)]


def _check_plain(params: Mapping[str, object]) -> None:
    """Raises NotSupported for what only SPDK's null bdevs can have."""
    block_size, physical = params.get("block_size", DEFAULT_BLOCK_SIZE), params.get("physical_block_size", 0)
    if physical not in {0, block_size}:
        raise NotSupported(
            f"physical_block_size {physical}: null bdevs have blocks of one size, here {block_size} bytes"
        )
    for name, off in _OFF.items():
        value = params.get(name, off)
        if value != off:
            raise NotSupported(
                f"{name} {str(value).lower()}: null bdevs have none; only {str(off).lower()} is supported"
            )


def _uuid(given: object) -> str:
    """A UUID in its usual form; "" for a random one."""
    if given is None:
        return ""
    try:
        uuid = uuidlib.UUID(str(given))
    except ValueError:
        raise InvalidArgument(f"uuid {quoted(str(given))}: not a UUID") from None
    return str(uuid) if uuid.int else ""


def _check(params: Mapping[str, object]) -> None:
    _check_plain(params)
    _uuid(params.get("uuid"))
    check_geometry(_number(params.get("block_size", DEFAULT_BLOCK_SIZE)), _number(params["num_blocks"]))


def _number(value: object) -> int:
    assert isinstance(value, int)  # parameters are checked by their types before
    return value


def _made(params: Mapping[str, object]) -> Made:
    name, uuid = str(params["name"]), _uuid(params.get("uuid"))
    names = f"{re.escape(name)}|(?i:{uuid})" if uuid else re.escape(name)
    return Made({"name": bdev_key(name)} | ({"uuid": uuid} if uuid else {}), names)


@method(
    undo="bdev_null_delete",
    errors={
        -errno.EEXIST: "another bdev has that name or UUID, or it exists otherwise",
        -errno.EINVAL: "a size or UUID that is not valid",
        -errno.EOPNOTSUPP: "something that only SPDK's null bdevs have",
    },
    precheck=_check,
    makes=_made,
)
async def bdev_null_create(
    system: System,
    name: Annotated[str, Name("name of the bdev", "name")],
    num_blocks: Annotated[int, Arg("capacity in blocks", "num_blocks", 1, MAX_BLOCKS)],
    block_size: Annotated[int, Arg("bytes of a block", "-b/--block-size", 512, MAX_UINT32)] = DEFAULT_BLOCK_SIZE,
    uuid: Annotated[str | None, Arg("of the bdev (default, and for the nil UUID: a random one)", "-u/--uuid")] = None,
    physical_block_size: Annotated[int, Arg("of SPDK's; only block_size, or 0", "", 0, MAX_UINT32)] = 0,
    md_size: _Off = 0,
    dif_type: _Off = 0,
    dif_is_head_of_md: Annotated[bool, Arg("of SPDK's; only false, as there is no metadata")] = False,
    dif_pi_format: _Off = 0,
    preferred_write_granularity: _Off = 0,
    preferred_write_alignment: _Off = 0,
    optimal_write_size: _Off = 0,
    preferred_unmap_granularity: _Off = 0,
    preferred_unmap_alignment: _Off = 0,
) -> Annotated[str, Member("its name")]:
    """Creates a bdev that reads as zeroes and keeps nothing; its I/O succeeds at once.

    It serves to measure everything but a device. It has no metadata, and prefers no sizes: what SPDK's clients say of
    them is refused unless it asks for none. If the same one exists already, it stays.
    """
    _check(locals())  # the parameters, by name
    system.nulls.create(name, num_blocks, block_size, _uuid(uuid))
    return name


@method(ends="bdev", errors={-errno.ENODEV: "there is no such bdev", -errno.EINVAL: "it is no null bdev"})
async def bdev_null_delete(system: System, name: Annotated[str, Name("bdev", "name")]) -> bool:
    """Deletes a null bdev. What uses it is ended first; the log says what that was."""
    await system.nulls.delete(name)
    return True
