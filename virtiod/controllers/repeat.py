"""What a lost device had acknowledged and may not have made stable is written again to the one that came back.

In the order of acknowledgement; side by side only where ranges don't overlap, and discards and zeroes alone: some
targets (qcow2 in QEMU 7.2) mix up what is in flight together on the same cluster. It is flushed in between, so that a
target that dies again and again has less to do each time.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque

from virtiod.bdev.keeping import KeptChannels, KeptFlush, KeptRecord
from virtiod.core.errors import DeadlineError, LostError
from virtiod.core.tasks import cancel, spawn
from virtiod.virtqueue.handle import RequestQueue

AT_ONCE = 8
GRAIN = 1 << 16  # bytes that belong together in a target
FLUSH_EVERY = 16  # records
DEADLINE_S = 10.0  # at least, for a device that answers none of what it was sent


class Repetition:
    """Of one bdev, whose channels are held, by a queue that holds all other I/O. run() once.

    doubts: how often its identity had been in doubt when it was the same disk. io_timeout_s: how long an I/O may take;
    0: for ever. refused: records that the device answered with an error, which are lost.
    """

    def __init__(self, channels: KeptChannels, queue: RequestQueue, doubts: int = 0, io_timeout_s: float = 0) -> None:
        self._deadline_s = max(DEADLINE_S, io_timeout_s)
        self.refused = 0
        self.repeated = 0
        self._channels = channels
        self._queue = queue
        self._doubts = doubts
        self._unflushed = 0
        self._flushes = True
        self._left = deque(channels.records())
        self._running: dict[asyncio.Task[int], KeptRecord] = {}
        self._at_once = AT_ONCE

    async def run(self) -> None:
        """Raises LostError, DeadlineError: the device is gone again. It all begins again with the next."""
        try:
            while self._left or self._running:
                while self._left and not self._flush_due() and self._may_start(self._left[0]):
                    self._check_same()
                    record = self._left.popleft()
                    task = spawn(self._queue.repeat(record), "write again", awaited=True)
                    self._running[task] = record
                if self._running:
                    await self._some_end()
                else:
                    await self._flush(self._channels.flush_before(self._left[0]))
        finally:
            await cancel(*self._running)

    def _flush_due(self) -> bool:
        return self._flushes and self._unflushed >= FLUSH_EVERY

    async def _flush(self, flush: KeptFlush) -> None:
        """One that fails is the last: users' own flushes will tell."""
        self._unflushed = 0
        try:
            async with asyncio.timeout(self._deadline_s):
                result = await self._queue.flush(flush)
        except TimeoutError:
            raise DeadlineError(f"repeated writes were not flushed within {self._deadline_s:g} s") from None
        if result == -errno.ESHUTDOWN:
            raise LostError("the device was lost while repeated writes were flushed")
        self._check_same()  # what was flushed may not be what was written again
        if result == 0:
            flush.succeeded()
        self._flushes = result == 0

    def _check_same(self) -> None:
        if self._channels.identity_doubts() != self._doubts:
            raise LostError("the disk may have become another one while writes were repeated")

    def _may_start(self, record: KeptRecord) -> bool:
        others = self._running.values()
        if not others:
            return True
        if len(others) >= self._at_once or not record.has_data:
            return False
        return all(other.has_data and not _meet(record, other) for other in others)

    async def _some_end(self) -> None:
        """A long record has many pieces, each of which shows that the device is alive."""
        done: set[asyncio.Task[int]] = set()
        while not done:
            before = self._handed()
            done, _ = await asyncio.wait(self._running, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not done and self._handed() == before:
                raise DeadlineError(f"nothing was repeated within {self._deadline_s:g} s")
        alone = len(self._running) == 1
        for task in done:
            self._ended(self._running.pop(task), task.result(), alone)

    def _handed(self) -> int:
        """Bytes of the records in flight that the device was given."""
        return sum(record.handed for record in self._running.values())

    def _ended(self, record: KeptRecord, result: int, alone: bool) -> None:
        if result == -errno.ESHUTDOWN:
            raise LostError("the device was lost while writes were repeated")
        if result == -errno.EBUSY:  # I/O that is held has the rest of the ring
            if alone:
                raise LostError("the ring has no room for what is to be written again")
            self._at_once = max(1, len(self._running))
            self._left.append(record)
            self._left = deque(sorted(self._left, key=_number))  # a flush covers what is before the first of them
        elif result:
            record.lost()
            self.refused += 1
        else:
            self.repeated += 1
            self._unflushed += 1


def _number(record: KeptRecord) -> int:
    return record.number


def _meet(one: KeptRecord, other: KeptRecord) -> bool:
    """Whether they touch the same grain."""
    (a, n), (b, m) = one.place, other.place
    return a // GRAIN <= (b + m - 1) // GRAIN and b // GRAIN <= (a + n - 1) // GRAIN
