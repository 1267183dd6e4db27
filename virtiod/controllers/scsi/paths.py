"""A unit that is seen on several paths has a bdev for each. What it calls itself finds the first of them only.

The others have their own names, and a UUID from their place. They keep these when the first one goes, so that nothing
finds another bdev than before while it is in use; a bdev that is registered later gets what is free then.
"""

from __future__ import annotations

import logging
from typing import TypedDict

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.levels import NOTICE
from virtiod.core.lograte import LogRate


class Identities(TypedDict):
    """Of a bdev, beside its name."""

    aliases: list[str]
    uuid: str
    unit: str


def identities(bdevs: BdevRegistry, unit: Unit, bdev_name: str, traddr: str) -> Identities:
    """What a new bdev of the unit is found by: what no other bdev has."""
    return Identities(
        aliases=list(bdevs.free(unit.aliases())),
        uuid=bdevs.free_uuid(unit.uuids(traddr, bdev_name)),
        unit=unit.world_wide,
    )


def others(bdevs: BdevRegistry, unit: Unit, bdev_name: str) -> list[str]:
    """The names of the other bdevs of the same unit."""
    return [bdev.name for bdev in bdevs.paths(unit.world_wide) if bdev.name != bdev_name]


def tell(said: LogRate, who: str, bdevs: BdevRegistry, unit: Unit, bdev: Bdev, traddr: str) -> None:
    """Logs of which bdevs a new one is another path, and what it would have been found by. who: its controller."""
    if found := others(bdevs, unit, bdev.name):
        message = "controller %s: bdev %s is another path to the unit of %s"
        said.say(NOTICE, (bdev.name, "path", *found), message, who, bdev.name, ", ".join(found))
    missing = [name for name in (*unit.aliases(), unit.uuids(traddr, bdev.name)[0]) if bdevs.get(name) is not bdev]
    for name in missing:
        message = "controller %s: bdev %s is not found by %s, which is bdev %s"
        level = logging.INFO if found else logging.WARNING
        said.say(level, (bdev.name, "missing", name), message, who, bdev.name, name, bdevs.get(name).name)
