"""The writes that a controller's bdevs keep until they are stable (bdev/keeping.py).

They are held when the device is lost, written again to the one that came back, flushed or given up when it is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.bdev.keeping import KeptChannels, KeptCounters, OnLoss
from virtiod.controllers.repeat import Repetition
from virtiod.core.errors import LostError
from virtiod.core.lograte import LogRate
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller
from virtiod.transports.epoch import Epoch, EpochState, Peer
from virtiod.virtqueue.handle import RequestQueue

log = logging.getLogger(__name__)

SETTLE_DEADLINE_S = 5.0  # for the flush of what is kept, when the device is left


class Keeping:
    """Of one controller, with these bdevs, as long as it has them."""

    def __init__(self, on_loss: OnLoss, bdevs: list[Bdev], registry: BdevRegistry, io_timeout_s: float) -> None:
        self.on_loss = on_loss
        self._io_timeout_s = io_timeout_s
        self._bdevs = bdevs
        self._registry = registry
        self._said = LogRate(log)
        self._cached_by: Peer | None = None  # the process that stopped in order, with all that it had acknowledged

    def make_channels(self, pollers: Sequence[Poller], buffers: Sequence[PollerBuffers]) -> KeptChannels:
        """Of a new bdev."""
        channels = KeptChannels(list(pollers))
        channels.keep(list(buffers), self.on_loss)
        return channels

    def _each(self) -> Iterator[tuple[Bdev, KeptChannels]]:
        for bdev in tuple(self._bdevs):  # one may be removed meanwhile
            if isinstance(bdev.channels, KeptChannels):
                yield bdev, bdev.channels

    @staticmethod
    def holds_io(bdev: Bdev) -> bool:
        """Whether I/O, or a write that is kept, waits for the device."""
        channels = bdev.channels
        return bool(channels.oldest_ns() or (isinstance(channels, KeptChannels) and channels.kept_counters().records))

    def counters(self) -> KeptCounters:
        """Of all its bdevs."""
        total = KeptCounters(0, 0, 0, 0, 0)
        for _, channels in self._each():
            total += channels.kept_counters()
        return total

    async def fail_waiting(self, code: int, before_ns: int = 0) -> None:
        """What waits to be kept, and was submitted before that time (0: all), ends with errno code."""
        for _, channels in self._each():
            await channels.fail_waiting(code, before_ns)

    # ---- a device that is lost, and comes back

    async def hold(self) -> None:
        """The device is lost, and its queues are stopped: nothing leaves what is kept."""
        for _, channels in self._each():
            await channels.hold()

    async def session_ended(self, epoch: Epoch, served: bool, heard: bool) -> None:
        """All is held. served: I/O reached it in that session, after what was kept had been written again.

        heard: it did not tell, at its end, of a loss that nobody knows of.
        """
        in_order = epoch.state is EpochState.QUIESCED and epoch.peer is not None
        if served or not heard:
            self._cached_by = epoch.peer if in_order and heard else None
        if self._cached_by is None:
            self._tell_unkept()
        for _, channels in self._each():
            await channels.name_doubt(0 if epoch.over else epoch.number)
        if epoch.over:  # perhaps since then
            await self.epoch_over(epoch)

    def _tell_unkept(self) -> None:
        for bdev, channels in self._each():
            if channels.lose_unkept():
                self.tell_loss(bdev, "acknowledged writes that were not flushed are lost with the device")

    def waits(self) -> bool:
        """Whether there is something to be written again. All is held."""
        return any(channels.records() for _, channels in self._each())

    async def epoch_over(self, epoch: Epoch) -> None:
        """Its device can't use what is kept any more."""
        for _, channels in self._each():
            await channels.end_doubt(epoch.number)

    async def give_up_in_doubt(self) -> None:
        """What a device was writing again, that may still do so, is not written by another one. All is held."""
        for bdev, channels in self._each():
            if channels.lose_in_doubt():
                self.tell_loss(bdev, "acknowledged writes are with a device that does not end")

    async def write_again(self, epoch: Epoch, queue: RequestQueue) -> None:
        """The device came back, is the same disk and holds I/O: nothing that was acknowledged is to be missing."""
        await self.hold()  # should it have failed when the device was cut off
        has_all = self._cached_by is not None and epoch.peer == self._cached_by
        if has_all:
            log.info("%s stopped in order and is back: it still has what it acknowledged", epoch.device)
        else:
            self._cached_by = None  # what is written now may be older than what that process has
            self._tell_unkept()
        for bdev, channels in self._each():
            doubts = channels.identity_doubts()
            if channels.identity_in_doubt():  # it is written again when it has said that it is the same disk
                channels.doubt_identity(reset=not has_all)
            elif has_all and not channels.was_reset:
                continue
            elif not bdev.removing:
                await self._restore_or_wait(bdev, channels, queue, doubts)
            elif not channels.disowned:  # another disk may be in its place
                self.lose(bdev, "acknowledged writes of a disk that is being removed are lost")
        for _, channels in self._each():
            await channels.let_go()

    async def _restore_or_wait(self, bdev: Bdev, channels: KeptChannels, queue: RequestQueue, doubts: int) -> None:
        try:
            await self.restore(bdev, channels, queue, doubts)
        except LostError:
            if not channels.identity_in_doubt():
                raise
            channels.doubt_identity(reset=True)  # again when it has said that it is the same disk

    async def restore(self, bdev: Bdev, channels: KeptChannels, queue: RequestQueue, doubts: int) -> None:
        """Write again what is held, to a disk that may have lost it.

        doubts: how often its identity had been in doubt when it was the same. Raises LostError, DeadlineError: it is to
        be begun again.
        """
        was_reset = channels.take_reset()  # one that comes meanwhile counts anew
        try:
            if was_reset and channels.lose_unkept():
                self.tell_loss(bdev, "acknowledged writes that were not flushed may be lost, as the unit was reset")
            await self._repeat(bdev, channels, queue, doubts)
        except BaseException:
            if was_reset:
                channels.doubt_identity(reset=True)
            raise

    async def _repeat(self, bdev: Bdev, channels: KeptChannels, queue: RequestQueue, doubts: int) -> None:
        repetition = Repetition(channels, queue, doubts, self._io_timeout_s)
        try:
            await repetition.run()
        finally:
            channels.repeated += repetition.repeated
            if repetition.refused:
                channels.count_loss()
                self.tell_loss(bdev, f"the device refused {repetition.refused} acknowledged writes")
        if repetition.repeated:
            told = "bdev %s: wrote %d kept writes again"
            self._said.say(logging.INFO, (bdev.name, "repeated"), told, bdev.name, repetition.repeated)

    def lose(self, bdev: Bdev, why: str) -> None:
        """What is kept will not be written again."""
        if isinstance(bdev.channels, KeptChannels) and bdev.channels.unstable():
            bdev.channels.count_loss()
            self.tell_loss(bdev, why)

    # ---- the end

    async def settle(self) -> None:
        """Flush what is kept. The device still runs, and has no other I/O."""
        await asyncio.gather(*(self._settle(bdev, channels) for bdev, channels in self._each()))

    @staticmethod
    async def _settle(bdev: Bdev, channels: KeptChannels) -> None:
        try:
            async with asyncio.timeout(SETTLE_DEADLINE_S):
                stable = await channels.settle()
        except TimeoutError:
            stable = False
        if not stable:
            log.error("bdev %s: acknowledged writes could not be flushed before the device was left", bdev.name)

    @staticmethod
    async def end(bdev: Bdev) -> None:
        """The bdev has no I/O any more."""
        if isinstance(bdev.channels, KeptChannels):
            lost = await bdev.channels.close_kept()
            if lost and not bdev.channels.disowned:  # else it was told
                log.error("bdev %s: gave up %d acknowledged writes that were not flushed", bdev.name, lost)

    def tell_loss(self, bdev: Bdev, what: str) -> None:
        if self.on_loss is OnLoss.IGNORE:
            self._said.say(logging.WARNING, (bdev.name, what), "bdev %s: %s", bdev.name, what)
            return
        message = "bdev %s: %s: the next flush of each of its users fails"
        self._said.say(logging.ERROR, (bdev.name, what), message, bdev.name, what)
        self._registry.tell_loss(bdev)
