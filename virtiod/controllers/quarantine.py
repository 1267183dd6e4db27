"""Memory that the device of an old session may still use: nobody else gets it until that epoch is over.

What lies here: rings with the headers beside them, buffers for answers, buffers of loads, each as a piece of DMA
memory; and buffers of the pollers' pools, which stay with their pool (buffers.keep). All of it goes back when the
device is known to have stopped, or to be gone. A detached controller leaves its own behind, and what watches for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from virtiod.bdev.channel import Holdings
from virtiod.core.memory import DmaMemory
from virtiod.core.tasks import cancel, spawn
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller
from virtiod.transports.epoch import Epoch

log = logging.getLogger(__name__)


class InQuarantine(NamedTuple):
    """What is in quarantine for a controller: of how many sessions; bytes in small and large buffers of pollers, and in
    other pieces of memory."""

    sessions: int = 0
    small: int = 0
    large: int = 0
    memory: int = 0


@dataclass(eq=False)
class _Case:
    """An epoch that is not over. settle: tells its controller's queues that it is, before buffers go back.
    shared: what the owner's later epochs may use, too."""

    epoch: Epoch
    owner: str
    holdings: Holdings
    settle: Callable[[Epoch], Awaitable[None]]
    addresses: list[int] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)


class Quarantine:
    """Of all controllers. Event-loop thread only."""

    def __init__(self, memory: DmaMemory, pools: Sequence[tuple[Poller, PollerBuffers]]) -> None:
        self._memory = memory
        self._pools = pools
        self._cases: dict[int, _Case] = {}  # by the epoch's number
        self._releasing: set[asyncio.Task[None]] = set()

    def watch(self, epoch: Epoch, owner: str, holdings: Holdings, settle: Callable[[Epoch], Awaitable[None]]) -> None:
        """Keep for owner what an epoch has, until it is over: then settle(epoch) is awaited, and all goes back."""
        self._cases[epoch.number] = _Case(epoch, owner, holdings, settle)
        for _, pool in self._pools:
            pool.keep_for(holdings)
        epoch.on_over(self._over)

    def keep(self, epoch: Epoch, addresses: Iterable[int]) -> None:
        """Pieces of DMA memory that an epoch's device may still use, if it is not over."""
        for address in addresses:
            self.free(epoch.number, address)

    def free(self, epoch: int, address: int) -> None:
        """Give a piece of DMA memory back, at once or when the epoch of that number is over."""
        case = self._cases.get(epoch)
        if case is not None:
            case.addresses.append(address)
        else:
            self._memory.free(address)

    def keep_for_all(self, owner: str, addresses: Sequence[int]) -> int:
        """Pieces of DMA memory that the device of each of owner's epochs that are not over may still use; returns how
        many were given back, as all are over."""
        case = next((case for case in self._cases.values() if case.owner == owner), None)
        if case is not None:
            case.shared += addresses
            return 0
        for address in addresses:
            self._memory.free(address)
        return len(addresses)

    def epochs(self, owner: str) -> list[Epoch]:
        """Those of a controller that are not over, oldest first."""
        return [case.epoch for case in self._cases.values() if case.owner == owner]

    def kept(self) -> dict[str, InQuarantine]:
        """What is in quarantine for whom, by the controller's name."""
        found: dict[str, InQuarantine] = {}
        counted: set[Holdings] = set()
        for case in self._cases.values():
            before = found.get(case.owner, InQuarantine())
            small, large = (0, 0) if case.holdings in counted else case.holdings.quarantined()
            counted.add(case.holdings)
            memory = sum(map(self._memory.size_of, case.addresses + case.shared))
            found[case.owner] = InQuarantine(
                before.sessions + 1, before.small + small, before.large + large, before.memory + memory
            )
        return found

    def _over(self, epoch: Epoch) -> None:
        task = spawn(self._release(epoch), f"end of session {epoch.number} with {epoch.device}")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release(self, epoch: Epoch) -> None:
        case = self._cases[epoch.number]
        await case.settle(epoch)
        buffers = 0
        for poller, pool in self._pools:
            buffers += await pool.release(poller, epoch.number)
        del self._cases[epoch.number]
        for address in case.addresses:
            self._memory.free(address)
        pieces = len(case.addresses) + self.keep_for_all(case.owner, case.shared)
        log.info(
            "controller %s: session %d is over (%s): %d buffers and %d pieces of memory leave quarantine",
            *(case.owner, epoch.number, epoch.reason, buffers, pieces),
        )

    async def stop(self) -> None:
        """Wait for nothing any more: this process ends, and its memory with it."""
        for case in self._cases.values():
            case.epoch.forget()
        await cancel(*self._releasing)
