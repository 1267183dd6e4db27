"""Reads the daemon's counters each second, on the event loop, a few bdevs at a time so that nothing waits for it.

Counters are read without a lock and without the pollers taking part. A bdev where nothing ended costs a microsecond.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import READ_AT_ONCE, ended_ios
from virtiod.core.ticks import NS_PER_S
from virtiod.exports.interface import Export
from virtiod.http.live.cells import CUTS, IDLE, NOTHING, Cell, Counted, cell, difference, total
from virtiod.http.live.history import History
from virtiod.poller.poller import Poller
from virtiod.system import System

PERIOD_S = 1.0

log = logging.getLogger(__name__)


@dataclass
class Watched:
    """A bdev between two reads. ended: I/Os that had ended at the last one; oldest_ns: age of the oldest in flight."""

    counted: Counted
    ended: int
    oldest_ns: int = 0
    cell: Cell = IDLE


class Rates(NamedTuple):
    """What counters grew by in the last second, per second."""

    at_ns: int
    counters: tuple[int, ...]
    rates: tuple[float, ...]


@dataclass
class Sampler:
    """Samples once a second while run() runs. second counts samples, changed is notified of each."""

    system: System
    history: History = field(default_factory=History)
    bdevs: dict[Bdev, Watched] = field(default_factory=dict)
    rates: dict[Poller | Export, Rates] = field(default_factory=dict)  # of pollers (busy, idle, sleep ns) and exports
    at: float = 0.0
    total: Cell = IDLE
    second: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Samples each second, until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                await self.sample()
            except Exception:  # an error of one sample must not end the page for good
                log.exception("live page: could not read the counters")
            due = max(due + PERIOD_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def sample(self) -> None:
        """Reads all counters once."""
        at = time.time()
        changes, singles, depth, oldest = [], {}, 0, 0
        seen: dict[Bdev, Watched] = {}
        for number, bdev in enumerate(self.system.bdevs.list()):
            if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)
            seen[bdev] = watched = self.bdevs.get(bdev) or _first_look(bdev)
            oldest = max(oldest, watched.oldest_ns)
            change = _look(bdev, watched)
            depth += watched.cell.depth
            if change is not None:
                changes.append(change)
            if watched.cell is not IDLE:
                singles[bdev.name] = watched.cell
        self.bdevs = seen
        self.rates = dict(self._rates())
        self.at, self.total = at, cell(total(changes), depth, oldest) if changes else _still(depth)
        self.history.add(at, self.total, singles)
        self.second += 1
        async with self.changed:
            self.changed.notify_all()

    def forget(self) -> None:
        """Drops references to what is sampled: aiohttp keeps handlers, and so the sampler, while the process lives."""
        self.bdevs, self.rates = {}, {}

    def _rates(self) -> Iterator[tuple[Poller | Export, Rates]]:
        now = time.monotonic_ns()
        for poller in self.system.pollers:
            stats = poller.stats()
            yield poller, self._rate(poller, now, (stats.busy_ns, stats.idle_ns, stats.sleep_ns))
        for export in self.system.exports.list():
            counters = export.counters()
            yield export, self._rate(export, now, (counters.requests, counters.received, counters.sent))

    def _rate(self, what: Poller | Export, now: int, counters: tuple[int, ...]) -> Rates:
        before = self.rates.get(what)
        if before is None:
            return Rates(now, counters, (0.0,) * len(counters))
        seconds = max(now - before.at_ns, 1) / NS_PER_S
        rates = ((new - old) / seconds for new, old in zip(counters, before.counters, strict=True))
        return Rates(now, counters, tuple(rates))


def _still(depth: int) -> Cell:
    """A second in which nothing ended."""
    return Cell(depth=depth, mean_depth=depth) if depth else IDLE


def _first_look(bdev: Bdev) -> Watched:
    """The state of a new bdev: what it has counted so far is not of this second."""
    ended = ended_ios(bdev.channels)
    return Watched(_read(bdev), ended)


def _look(bdev: Bdev, watched: Watched) -> Counted | None:
    """Reads a bdev's counters; returns what changed, or None if nothing did."""
    channels = bdev.channels
    now, oldest_at = time.monotonic_ns(), channels.oldest_ns()
    oldest_before, watched.oldest_ns = watched.oldest_ns, max(0, now - oldest_at) if oldest_at else 0
    ended = ended_ios(channels)
    if ended == watched.ended:
        watched.counted = watched.counted._replace(at_ns=now)
        watched.cell = _still(channels.in_flight())
        return None
    before, watched.counted, watched.ended = watched.counted, _read(bdev), ended
    change = difference(watched.counted, before)
    watched.cell = cell(change, channels.in_flight(), oldest_before)
    return change


def _read(bdev: Bdev) -> Counted:
    stats = bdev.stats(CUTS)
    read, write, *others = stats.ops.values()
    below = NOTHING.below
    for op in stats.ops.values():
        if op.below[-1]:
            below = [a + b for a, b in zip(below, op.below, strict=True)]
    return Counted(
        time.monotonic_ns(),
        read.completed,
        write.completed,
        sum(op.completed for op in others),
        read.bytes,
        write.bytes,
        sum(op.failed for op in stats.ops.values()),
        stats.weighted_ns,
        below,
    )
