"""What happened to bdevs, for clients that ask from time to time: a ring of the last events."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from virtiod.bdev.registry import EVENTS

RING_SIZE = 1024


@dataclass(frozen=True)
class Notification:
    """`id` counts up from 0 and is never used twice; `ctx` is the name of what it happened to."""

    id: int
    type: str
    ctx: str


class Notifications:
    """The last RING_SIZE notifications."""

    types: tuple[str, ...] = EVENTS

    def __init__(self) -> None:
        self._ring: deque[Notification] = deque(maxlen=RING_SIZE)
        self._next = 0

    def add(self, event: str, ctx: str) -> None:
        """Records an event, one of `types`, of the bdev ctx."""
        self._ring.append(Notification(self._next, event, ctx))
        self._next += 1

    def since(self, first: int, limit: int) -> list[Notification]:
        """At most `limit` notifications whose id is `first` or more and that are still kept, oldest first."""
        if not self._ring:
            return []
        skip = max(0, first - self._ring[0].id)
        return [self._ring[i] for i in range(skip, min(len(self._ring), skip + limit))]
