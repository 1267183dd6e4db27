"""The shapes of a ring: what was agreed on for it, and how many pollers submit to it.

@each_ring
@in_loop
async def test_something(ring: Ring) -> None:
    async with ring.rig(size=8) as rig:
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.rig import Rig
from virtiod.virtio.features import Feature


@dataclass(frozen=True)
class Ring:
    """pollers: that share its queue; I/O is submitted on the last, which does not own it if there are two."""

    indirect: bool = True
    event_idx: bool = True
    pollers: int = 1

    def __str__(self) -> str:
        words = [*([] if self.indirect else ["direct"]), *([] if self.event_idx else ["flags"])]
        return "-".join([*words, *(["two_pollers"] if self.pollers > 1 else [])]) or "usual"

    def rig(self, **options: Any) -> Rig:
        return Rig(indirect=self.indirect, event_idx=self.event_idx, pollers=self.pollers, **options)

    def at_once(self, size: int) -> int:
        """Requests of one segment that a ring of that size has room for: one slot is kept for commands."""
        return size - 1 if self.indirect else size // 3

    @property
    def features(self) -> int:
        """What a back-end offers for it."""
        optional = self.indirect << Feature.INDIRECT_DESC | self.event_idx << Feature.EVENT_IDX
        return 1 << Feature.VERSION_1 | optional


RINGS = [Ring(), Ring(indirect=False), Ring(event_idx=False), Ring(pollers=2), Ring(False, False, 2)]
each_ring = pytest.mark.parametrize("ring", RINGS, ids=str)
