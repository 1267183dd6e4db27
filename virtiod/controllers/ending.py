"""How a session with a device ends, and what becomes of the memory and the writes that it had.

The device is taken off the pollers, asked to stop, and closed. If it did not confirm that it stopped, its epoch is
possibly alive: what it may still use goes into quarantine, and what it may still write is not written by its successor
before the epoch is over, or the time of the I/O is.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any

from virtiod.controllers.device import Config, Context, Device
from virtiod.controllers.request import AttachRequest
from virtiod.core.counted import counted
from virtiod.core.errors import LostError, NoMemory, VirtiodError
from virtiod.core.tasks import cancel, spawn
from virtiod.transports.epoch import Epoch
from virtiod.transports.interface import Transport

log = logging.getLogger(__name__)

DRAIN_DEADLINE_S = 5.0
STOP_DEADLINE_S = 2.0  # for the device to stop its queues
MAX_OLD_EPOCHS = 8  # of one controller that are not over: with more it waits for one, as long as an I/O may
LAST_OLD_EPOCHS = 64  # with more it waits until one is over: each has rings in quarantine


class EndingDevice(Device[Config]):
    """A device whose sessions end. waits_for: what keeps it from connecting again; "" when nothing does."""

    def __init__(self, request: AttachRequest, transport: Transport, context: Context) -> None:
        super().__init__(request, transport, context)
        self.given_up = 0  # requests that were in flight when it was cut off for good
        self.waits_for = ""
        self._letting_go = False  # it is not known yet what the device may still use
        self._old: Epoch | None = None  # its device may still use the rings, and what is in flight
        self._fewer = asyncio.Event()  # requests in flight, or old epochs; set by those who end some

    @abstractmethod
    def _away_too_long(self) -> bool:
        """Whether the device is away for longer than an I/O may wait for it."""

    # ---- cutting off and stopping

    async def _cut_off(self) -> None:
        """Take the queues off their pollers, have the device stop, and close it: it can answer nothing any more.

        If it did not confirm that it stopped, what it had is not touched until its epoch is over.
        """
        self._letting_go = True
        try:
            for queue in self.all_queues:
                await queue.stop()
            await self.keeping.hold()
            await self._stop_rings()
            await self.transport.close()
            await self._look_back()
        finally:
            self._letting_go = False

    async def _stop_rings(self) -> None:
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                for queue in self.all_queues:
                    await self.transport.stop_queue(queue.index)
        except LostError:
            pass  # there is nobody to ask
        except (TimeoutError, VirtiodError) as error:
            told = "controller %s: the device did not stop its queues: %s"
            log.warning(told, self.name, str(error) or "no answer in time")

    async def _look_back(self) -> None:
        """If the session that has ended is not over, keep what its device had."""
        epoch = self.transport.epoch
        if epoch is None:
            return
        if not epoch.over and epoch.number not in {old.number for old in self._old_epochs()}:
            log.warning("controller %s: what the device had is in quarantine: %s", self.name, epoch.reason)
            self._old = epoch
            self.context.quarantine.watch(epoch, self.name, self.holdings, self._epoch_over)
            await self._doubt(epoch)
            if epoch.over:  # meanwhile
                await self._settle_old()
        served, self._served = self._served, False
        await self.keeping.session_ended(epoch, served, await self._is_heard())

    async def _is_heard(self) -> bool:
        """Whether everything that the device told in the session that has ended was heard.

        An answer that nobody took need not be, where answers tell of nothing else: its I/O is done again.
        """
        return True

    async def _stop_gently(self) -> None:
        """Let I/O end, and have what was acknowledged made stable."""
        try:
            async with asyncio.timeout(DRAIN_DEADLINE_S):
                for queue in self.request_queues:
                    await queue.drain()
        except TimeoutError:
            log.warning("controller %s: I/O still in flight after %g s", self.name, DRAIN_DEADLINE_S)
        await self.keeping.settle()

    async def _give_up(self, before_ns: int = 0) -> None:
        """Fails all I/O and all later I/O, or what was submitted before that time (ns). The device is cut off."""
        given_up = 0
        await self.keeping.fail_waiting(errno.ENODEV, before_ns)
        for queue in self.all_queues:
            failed = await queue.fail(errno.ENODEV, before_ns)
            given_up += failed if queue in self.request_queues else 0
        self.given_up += given_up
        if given_up:
            log.warning("controller %s: gave up %s in flight", self.name, counted(given_up, "request"))

    def _close_queues(self) -> None:
        """The last epoch may still use their rings; each that is not over, the memory that they write zeroes from."""
        for queue in self.all_queues:
            if self._old_epochs():
                self.context.quarantine.keep_for_all(self.name, queue.let_go())
            else:
                queue.close()

    # ---- what an old epoch may still use

    def _old_epochs(self) -> list[Epoch]:
        return self.context.quarantine.epochs(self.name)

    async def _doubt(self, epoch: Epoch) -> None:
        """The device may still use what is in flight: buffers of I/O that fails go into quarantine."""
        for queue in self.all_queues:
            await queue.doubt(epoch.number)

    async def _epoch_over(self, epoch: Epoch) -> None:
        """Nothing of an old epoch can write any more, to memory or to the medium: what it had may be repeated."""
        await self.keeping.epoch_over(epoch)
        if epoch is self._old:
            await self._settle_old()
        self._fewer.set()

    async def _settle_old(self) -> None:
        self._old = None
        for queue in self.all_queues:
            await queue.doubt(0)

    async def _renew_rings(self, epoch: Epoch) -> None:
        """Leave the rings and headers to the device of an old epoch, and have new ones."""
        for queue in self.all_queues:
            self.context.quarantine.keep(epoch, [await queue.renew()])

    async def _awaited(self, epoch: Epoch) -> str:
        """What has to be over first: a device of an old epoch may still write something that is to be written again, or
        read into a buffer that somebody waits for; or there are many of them. "" if nothing.

        Acknowledged writes wait as long as an I/O may."""
        if any([await queue.in_doubt() for queue in self.request_queues]):
            return epoch.reason
        old = sum(not each.over for each in self._old_epochs())
        many = f"{old} old sessions may still be alive; the last one: {epoch.reason}"
        if old > LAST_OLD_EPOCHS:
            return many
        if self._away_too_long():
            return ""
        if old > MAX_OLD_EPOCHS:
            return many
        return epoch.reason if self.keeping.waits() else ""

    async def _part_from_old(self) -> None:
        """Wait until no device of an old epoch has any of our requests: it is over, or their own time was.

        A write that is repeated before may be overwritten by itself, late; a read's buffer may be filled late.
        """
        epoch = self._old
        if epoch is None:
            return
        try:
            await self._renew_rings(epoch)
        except NoMemory as error:
            log.error("controller %s: no memory for new rings: %s", self.name, error)
            await epoch.wait_over()
        while not epoch.over and (awaited := await self._awaited(epoch)):
            if not self.waits_for:
                log.warning("controller %s: it connects again when the old device is gone: %s", self.name, awaited)
            self.waits_for = awaited
            self._fewer.clear()
            await self._either(epoch.wait_over(), self._fewer.wait())
        self.waits_for = ""
        if not epoch.over:
            await self.keeping.give_up_in_doubt()
        await self._settle_old()

    async def _either(self, *waits: Coroutine[Any, Any, object]) -> None:
        """Return when one of them has ended."""
        tasks = [spawn(wait, f"old device of {self.name}", awaited=True) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(*tasks)
