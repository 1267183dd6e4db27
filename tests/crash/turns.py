"""Turns: requests that a target can't take side by side wait for each other.

qcow2 in QEMU 7.2 mixes blocks up, and says "qcow2_free_clusters failed", when zeroes or a trim of a cluster are in
flight together with anything else on it; its own NBD export does so too. With turns it is a correct disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class Turns:
    """Of ranges of blocks. grain: blocks that belong together; 0: nothing ever waits."""

    def __init__(self, grain: int) -> None:
        self._grain = grain
        self._shared: Counter[int] = Counter()  # grains in use, and by how many
        self._alone: set[int] = set()  # those in use by one that wants to be alone
        self._waiting: list[tuple[range, bool, asyncio.Future[None]]] = []

    def _grains(self, first: int, blocks: int) -> range:
        if not self._grain or not blocks:
            return range(0)
        return range(first // self._grain, (first + blocks - 1) // self._grain + 1)

    async def take(self, first: int, blocks: int, alone: bool) -> None:
        """Returns when it is the turn of that range; whoever came before on it goes first."""
        grains = self._grains(first, blocks)
        if not grains:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((grains, alone, turn))
        self._admit()
        await turn

    def give(self, first: int, blocks: int, alone: bool) -> None:
        """The turn is over."""
        grains = self._grains(first, blocks)
        if alone:
            self._alone.difference_update(grains)
        else:
            self._shared.subtract(grains)
        self._admit()

    def _admit(self) -> None:
        before: set[int] = set()  # grains that some wait for
        still = []
        for grains, alone, turn in self._waiting:
            if turn.cancelled():
                continue
            if before.isdisjoint(grains) and self._free(grains, alone):
                if alone:
                    self._alone.update(grains)
                else:
                    self._shared.update(grains)
                turn.set_result(None)
            else:
                before.update(grains)
                still.append((grains, alone, turn))
        self._waiting = still

    def _free(self, grains: range, alone: bool) -> bool:
        return self._alone.isdisjoint(grains) and not (alone and any(self._shared[grain] for grain in grains))
