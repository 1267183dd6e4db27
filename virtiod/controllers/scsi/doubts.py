"""Finds out whether units that may have become other disks are the disks that they were.

The data path holds the I/O of a unit from the moment that it reports what may mean another disk (sense.may_be_another)
until the doubt is settled here. If it is the same disk but was reset, its cache may have lost what it held: that is
written again before its I/O goes on, as when a device was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from virtiod.bdev import Bdev
from virtiod.bdev.keeping import KeptChannels
from virtiod.controllers.scsi.discovery import Discovery, Verdict
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.errors import DeadlineError, DeviceError, LostError, VirtiodError
from virtiod.core.tasks import cancel, spawn
from virtiod.virtqueue.handle import RequestQueue

MAX_LOOKS = 16  # in a row; a look may itself be what a unit answers with the next doubt
QUIET_DEADLINE_S = 10.0  # for requests that a unit was sent before it was in doubt
QUIET_POLL_S = 0.002

# (the unit, its bdev, what is there now, why)
Looked = Callable[[Unit, Bdev, Verdict, str], None]


class Doubts:
    """Of one controller's units.

    write_again: to write to the bdev's disk what its cache lost. looked: called with what a look has found. lost: to be
    called when the device does not take what is written again.
    """

    def __init__(
        self,
        discovery: Discovery,
        queues: Sequence[RequestQueue],
        write_again: Callable[[Bdev, int], Awaitable[None]],
        looked: Looked,
        lost: Callable[[DeviceError], None],
    ) -> None:
        self._discovery = discovery
        self._queues = queues
        self._write_again = write_again
        self._looked = looked
        self._lost = lost
        self._looks: dict[Bdev, asyncio.Task[None]] = {}

    def look(self, unit: Unit, bdev: Bdev) -> None:
        """Settle the doubt soon, one way or the other, unless that has begun already."""
        if bdev not in self._looks:
            task = spawn(self._settle(unit, bdev), f"identity of {bdev.name}")
            self._looks[bdev] = task
            task.add_done_callback(lambda _: self._looks.pop(bdev))

    async def done(self, bdev: Bdev) -> None:
        """Returns when nothing is written to the bdev from here any more."""
        if bdev in self._looks:
            await asyncio.wait({self._looks[bdev]})

    async def stop(self) -> None:
        """End all of it. The device is cut off: what was being written again is not with it any more."""
        await cancel(*self._looks.values())

    async def confirm(self, unit: Unit, bdev: Bdev, restore: bool = True) -> tuple[Verdict, str]:
        """What is there now, and why. Of the same disk, all doubts are settled.

        restore: what its cache lost is written again first. If not, the caller sees to that: keeping.restore().
        """
        channels = bdev.channels
        for _ in range(MAX_LOOKS):
            if restore:
                await self._discovery.hear(unit)
            seen = channels.identity_doubts()
            verdict, why = await self._discovery.compare(unit)
            if verdict is not Verdict.SAME or channels.disowned:
                return verdict, why
            if not restore or not channels.was_reset or await self._restore(unit, bdev, seen):
                channels.settle_identity(seen)
            if not channels.identity_in_doubt():
                return verdict, ""
        return Verdict.UNKNOWN, "unit attentions without end"

    async def _settle(self, unit: Unit, bdev: Bdev) -> None:
        try:
            verdict, why = await self.confirm(unit, bdev)
        except VirtiodError as error:
            verdict, why = Verdict.UNKNOWN, str(error)
        self._looked(unit, bdev, verdict, why)

    async def _restore(self, unit: Unit, bdev: Bdev, doubts: int) -> bool:
        """Write again what the cache lost; false if it has to be looked at again, as the next doubt came meanwhile."""
        channels = bdev.channels
        if not isinstance(channels, KeptChannels):
            channels.take_reset()
            return True
        try:
            await self._quiet(channels, DeviceError)
            await self._discovery.make_ready(unit)
            await self._write(bdev, channels, doubts)
        except LostError:
            return False
        return True

    async def _write(self, bdev: Bdev, channels: KeptChannels, doubts: int) -> None:
        """Raises LostError if it did not come to an end: then nothing of it is with the device any more."""
        try:
            try:
                await self._write_again(bdev, doubts)
            except LostError:
                await self._quiet(channels, DeadlineError)
                raise
        except DeadlineError as error:
            self._lost(error)
            raise

    async def _quiet(self, channels: KeptChannels, error: type[DeviceError]) -> None:
        """Returns when the device has nothing of the unit any more that could write. Raises `error` if that lasts."""
        ends = asyncio.get_running_loop().time() + QUIET_DEADLINE_S
        while left := sum([await queue.unit_reset(channels) for queue in self._queues]):
            if asyncio.get_running_loop().time() > ends:
                raise error(f"{left} requests of before it was in doubt are still with it")
            await asyncio.sleep(QUIET_POLL_S)
