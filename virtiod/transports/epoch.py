"""Epochs: what the device of a session may still do with memory that it was told of.

From connect() to its end a device's session is an epoch. While it is live its device may do whatever it was asked to.
Afterwards that can't be known from silence: a device that does not answer may still write into buffers, and write to
its medium what it was given. So memory and I/O that were in its hands wait until the epoch is over: the device
confirmed that it stopped (quiesced), or the process that was the device is known to have ended (dead).
"""

from __future__ import annotations

import asyncio
import enum
import itertools
from collections.abc import Callable
from typing import NamedTuple

PEER_GRACE_S = 3.0  # after which a device that ended its session counts as gone, if its process can't be seen

_numbers = itertools.count(1)


class Peer(NamedTuple):
    """The process that is the device. started: its start time, in clock ticks since boot (proc(5)); the same pid with
    another one is another process."""

    pid: int
    started: int


class EpochState(enum.StrEnum):
    LIVE = "live"
    QUIESCED = "quiesced"  # every ring was stopped, the device reset, or kept from memory
    DEAD = "dead"  # the process, or the device, is gone
    POSSIBLY_ALIVE = "possibly_alive"


class Epoch:
    """One session. number: unique in this process, ascending. device: for messages. peer: None if it can't be seen.

    The transport says how it ends; the controller asks, and waits.
    """

    def __init__(self, device: str, peer: Peer | None = None) -> None:
        self.number = next(_numbers)
        self.device = device
        self.peer = peer
        self.state = EpochState.LIVE
        self.reason = ""  # what may still be alive, or how it ended
        self._listeners: list[Callable[[Epoch], None]] = []
        self._over = asyncio.Event()
        self._stop_watching: Callable[[], None] | None = None

    @property
    def over(self) -> bool:
        """Nothing of it can write any more, to memory or to its medium."""
        return self.state in {EpochState.QUIESCED, EpochState.DEAD}

    def on_over(self, listener: Callable[[Epoch], None]) -> None:
        """Have listener(epoch) called when it is over; at once if it is."""
        if self.over:
            listener(self)
        else:
            self._listeners.append(listener)

    async def wait_over(self) -> None:
        await self._over.wait()

    # ---- the transport's

    def quiesce(self, reason: str) -> None:
        """The device confirmed that it stopped, or can't reach memory any more."""
        self._end(EpochState.QUIESCED, reason)

    def die(self, reason: str) -> None:
        """What was the device is gone."""
        self._end(EpochState.DEAD, reason)

    def doubt(self, reason: str, stop_watching: Callable[[], None] | None = None) -> None:
        """It ended without a confirmation. stop_watching: ends what would tell that it is over."""
        if self.over:
            if stop_watching is not None:
                stop_watching()
            return
        self.state = EpochState.POSSIBLY_ALIVE
        self.reason = reason
        self._stop_watching = stop_watching

    def forget(self) -> None:
        """Nobody is interested any more, though it may be alive: this process ends."""
        self._listeners.clear()
        self._watch_no_more()

    def _end(self, state: EpochState, reason: str) -> None:
        if self.over:
            return
        self.state = state
        self.reason = reason
        self._watch_no_more()
        self._over.set()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(self)

    def _watch_no_more(self) -> None:
        stop, self._stop_watching = self._stop_watching, None
        if stop is not None:
            stop()
