"""Methods about notifications."""

from __future__ import annotations

from typing import Annotated

from virtiod.api.params import Arg
from virtiod.api.registry import method
from virtiod.api.results.notify import NotificationDescription
from virtiod.bdev.notifications import RING_SIZE
from virtiod.core.described import Member
from virtiod.system import System


@method(reads=True)
async def notify_get_types(system: System) -> Annotated[list[str], Member("their names")]:
    """Lists the types of notifications."""
    return list(system.notifications.types)


@method(reads=True)
async def notify_get_notifications(
    system: System,
    id: Annotated[int, Arg("first id wanted", "-i/--id")] = 0,
    max: Annotated[int, Arg("at most so many", "-n/--max")] = RING_SIZE,
) -> Annotated[list[NotificationDescription], Member("the oldest first")]:
    """Lists notifications from an id on: the last 1024 are kept."""
    found = system.notifications.since(id, max)
    return [NotificationDescription(type=event.type, ctx=event.ctx, id=event.id) for event in found]
