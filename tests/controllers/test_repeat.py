"""What was acknowledged and not flushed is written again to a device that lost it, before anything else."""

from __future__ import annotations

import asyncio
import errno
from typing import Any, cast

import pytest

from tests.support.fake_device import DISCARD, FLUSH, IOERR, OK, OUT, UNSUPP, WRITE_ZEROES
from tests.support.rig import Rig, in_loop
from virtiod.bdev.keeping import KeptChannels, KeptFlush, KeptRecord, OnLoss
from virtiod.bdev.probe import Flag
from virtiod.controllers import repeat
from virtiod.controllers.repeat import AT_ONCE, Repetition
from virtiod.core.errors import DeadlineError, LostError
from virtiod.virtqueue.handle import RequestQueue

BLOCK = 512


def keeping(size: int = 64, **more: Any) -> Rig:
    return Rig(size=size, write_cache=True, on_loss=OnLoss.KEEP, **more)


def fill(rig: Rig, first: int, byte: int, blocks: int = 1, flags: int = 0) -> asyncio.Future[int]:
    """A write of that byte."""
    length = BLOCK * blocks
    rig.probe.buffer[:length] = bytes([byte]) * length
    done = rig.submit("write", BLOCK * first, length, flags)
    rig.settle()
    return done


def blocks(rig: Rig, n: int) -> list[int]:
    """The first byte of each block of the disk."""
    return [rig.device.disk[BLOCK * i] for i in range(n)]


@in_loop
async def test_what_was_acknowledged_is_there_again_in_the_order_of_acknowledgement() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1, 4)
        fill(rig, 1, 2)
        rig.submit("write_zeroes", BLOCK * 2, BLOCK)
        rig.settle()
        fill(rig, 3, 3)
        fill(rig, 3, 4)
        rig.device.requests.clear()
        repetition = await rig.lose_cache()
        assert blocks(rig, 4) == [1, 2, 0, 4]
        assert (repetition.repeated, repetition.refused) == (5, 0)
        assert [r.type for r in rig.device.requests] == [OUT, OUT, WRITE_ZEROES, OUT, OUT]


@in_loop
async def test_what_was_flushed_is_not_written_again() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        rig.submit("flush", 0, 0)
        rig.settle()
        fill(rig, 1, 2)
        rig.device.requests.clear()
        await rig.lose_cache()
        assert [r.sector for r in rig.device.requests] == [1]
        assert blocks(rig, 2) == [1, 2]


class Dying:
    """A queue whose device dies after some requests."""

    def __init__(self, queue: RequestQueue, left: int) -> None:
        self._queue = queue
        self._left = left

    async def repeat(self, record: KeptRecord) -> int:
        self._left -= 1
        return await self._queue.repeat(record) if self._left >= 0 else -errno.ESHUTDOWN

    async def flush(self, flush: KeptFlush) -> int:
        self._left -= 1
        return await self._queue.flush(flush) if self._left >= 0 else -errno.ESHUTDOWN


@in_loop
async def test_a_device_that_dies_again_and_again_has_less_to_do_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat, "FLUSH_EVERY", 2)
    total = 6
    async with keeping() as rig:
        for n in range(total):
            fill(rig, n, n + 1)
        for left in (4, 2):
            await rig.do(rig.queue.stop())
            await rig.do(rig.channels.hold())
            rig.device.lose_cache()
            await rig.start(hold=True)
            repetition = Repetition(rig.channels, cast("RequestQueue", Dying(rig.queue, 4)))
            with pytest.raises(LostError):
                await rig.do(repetition.run(), serve=True)
            assert len(rig.channels.records()) == left
        await rig.lose_cache()
        assert blocks(rig, total) == [n + 1 for n in range(total)]


@in_loop
async def test_what_was_written_again_is_kept_on_until_a_flush() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        for _ in range(3):
            await rig.lose_cache()
            assert blocks(rig, 1) == [1]
        rig.submit("flush", 0, 0)
        rig.settle()
        rig.device.requests.clear()
        await rig.lose_cache()
        assert rig.device.requests == []
        assert blocks(rig, 1) == [1]


@in_loop
async def test_what_was_in_flight_comes_after_and_then_what_waited() -> None:
    async with keeping(size=4, capacity=1 << 20) as rig:
        fill(rig, 0, 1)
        rig.probe.buffer[:BLOCK] = bytes([2]) * BLOCK
        done = [rig.submit("write", 0, BLOCK)]  # in flight
        done += [rig.submit("read", BLOCK, BLOCK, at=BLOCK) for _ in range(5)]  # most of them wait
        rig.turn(2)
        rig.device.take()
        rig.device.requests.clear()
        await rig.lose_cache()
        rig.settle()
        assert [d.result() for d in done] == [0] * 6
        types = [r.type for r in rig.device.requests]
        assert types[0] == OUT
        assert sorted(types[1:]) == [0] * 5 + [OUT]
        assert blocks(rig, 1) == [2]


@in_loop
async def test_a_flush_in_flight_covers_what_was_written_again() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        flush = rig.submit("flush", 0, 0)
        rig.turn(2)
        rig.device.take()
        await rig.lose_cache()
        rig.settle()
        assert flush.result() == 0
        assert blocks(rig, 1) == [1]
        assert rig.channels.kept_counters().records == 0
        rig.device.lose_cache()
        assert blocks(rig, 1) == [1]


@in_loop
async def test_a_loss_while_writes_are_repeated_begins_again() -> None:
    async with keeping() as rig:
        for i in range(6):
            fill(rig, 200 * i, i + 1)
        await rig.do(rig.queue.stop())
        await rig.do(rig.channels.hold())
        rig.device.lose_cache()
        await rig.start(hold=True)
        running = asyncio.ensure_future(Repetition(rig.channels, rig.queue).run())
        for _ in range(5):
            await asyncio.sleep(0)
            rig.turn()
        for request in rig.device.take()[:3]:
            rig.device.complete(request, rig.device.execute(request))
        await rig.do(rig.queue.stop())
        with pytest.raises(LostError):
            await rig.do(_ended(running))
        repetition = await rig.lose_cache()
        assert repetition.repeated == 6
        assert [rig.device.disk[BLOCK * 200 * i] for i in range(6)] == list(range(1, 7))


async def _ended(task: asyncio.Future[None]) -> None:
    await task


@pytest.mark.parametrize("indirect", [True, False])
@in_loop
async def test_the_spare_slot_carries_them_when_io_that_is_held_has_all_others(indirect: bool) -> None:
    async with keeping(size=8, indirect=indirect, max_segments=3) as rig:
        for i in range(6):
            fill(rig, i, i + 1)
        reads = [rig.submit("read", 0, BLOCK) for _ in range(20)]
        rig.turn(2)
        rig.device.take()
        await rig.lose_cache()
        assert blocks(rig, 6) == [1, 2, 3, 4, 5, 6]
        rig.settle()
        assert [r.result() for r in reads] == [0] * 20


@in_loop
async def test_discards_and_zeroes_go_alone_and_overlapping_writes_one_after_the_other() -> None:
    async with keeping() as rig:
        for i in range(3):
            fill(rig, 1000 * i, 1)
        for op in ("write_zeroes", "unmap"):
            rig.submit(op, BLOCK * 5000, BLOCK)
            rig.settle()
        for i in range(3):
            fill(rig, 0, i)
        await rig.do(rig.queue.stop())
        await rig.do(rig.channels.hold())
        await rig.start(hold=True)
        running = asyncio.ensure_future(Repetition(rig.channels, rig.queue).run())
        batches = []
        while not running.done():
            for _ in range(5):
                await asyncio.sleep(0)
                rig.turn()
            taken = rig.device.take()
            if taken:
                batches.append([r.type for r in taken])
            for request in taken:
                rig.device.complete(request)
        assert batches == [[OUT] * 3, [WRITE_ZEROES], [DISCARD], [OUT], [OUT], [OUT]]
        await rig.do(rig.channels.let_go())
        await rig.do(rig.queue.release())


@in_loop
async def test_a_write_that_is_refused_after_a_loss_in_its_flush_is_no_success() -> None:
    async with keeping() as rig:
        done = rig.submit("write", 0, BLOCK, Flag.FUA)
        rig.turn(2)
        (write,) = rig.device.take()
        rig.device.complete(write)
        rig.turn(2)
        assert [r.type for r in rig.device.take()] == [FLUSH]
        await rig.lose_cache()
        rig.turn(2)
        (write,) = rig.device.take()
        assert write.type == OUT
        rig.device.complete(write, UNSUPP)
        rig.settle()
        assert done.result() == -errno.EOPNOTSUPP


class SlowRecord:
    """Takes the device many pieces."""

    has_data = False
    handed = 0


class SlowQueue:
    """Whose device takes a piece each 60 ms."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces

    async def repeat(self, record: SlowRecord) -> int:
        for _ in range(self._pieces):
            await asyncio.sleep(0.06)
            record.handed += 1
        await asyncio.sleep(60 if self._pieces == 1 else 0)
        return 0


class OneRecord:
    """Channels that keep one."""

    def records(self) -> list[SlowRecord]:
        return [SlowRecord()]

    def identity_doubts(self) -> int:
        return 0


@pytest.mark.parametrize("pieces", [1, 10])
@in_loop
async def test_a_record_may_take_longer_than_the_deadline_if_its_pieces_do_not(
    monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(repeat, "DEADLINE_S", 0.3)
    repetition = Repetition(cast("KeptChannels", OneRecord()), cast("RequestQueue", SlowQueue(pieces)))
    if pieces == 1:
        with pytest.raises(DeadlineError):
            await repetition.run()
    else:
        await repetition.run()
        assert repetition.repeated == 1


@in_loop
async def test_a_write_that_the_device_refuses_is_lost_and_not_tried_again() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        fill(rig, 1, 2)
        await rig.do(rig.queue.stop())
        await rig.do(rig.channels.hold())
        await rig.start(hold=True)
        repetition = Repetition(rig.channels, rig.queue)
        running = asyncio.ensure_future(repetition.run())
        while not running.done():
            await asyncio.sleep(0)
            rig.turn()
            rig.device.serve(lambda request: IOERR if request.sector == 0 else OK)
        assert (repetition.repeated, repetition.refused) == (1, 1)
        await rig.do(rig.channels.let_go())
        await rig.do(rig.queue.release())
        assert (await rig.lose_cache()).repeated == 1


@in_loop
async def test_a_repeated_write_is_cut_by_the_devices_limits() -> None:
    async with keeping(max_transfer=4096, max_segments=2) as rig:
        fill(rig, 0, 7, 96)
        rig.device.requests.clear()
        await rig.lose_cache()
        assert blocks(rig, 96) == [7] * 96
        assert len(rig.device.requests) == 12


@in_loop
async def test_fua_and_flags_are_what_they_were() -> None:
    async with keeping() as rig:
        rig.submit("write_zeroes", 0, BLOCK, Flag.NO_HOLE)
        rig.settle()
        rig.submit("write_zeroes", BLOCK, BLOCK)
        rig.settle()
        rig.device.requests.clear()
        await rig.lose_cache()
        assert [r.ranges[0][2] for r in rig.device.requests] == [0, 1]


@in_loop
async def test_a_flush_that_came_before_the_repetition_is_not_answered_before_it_though_the_cache_is_off_now() -> None:
    async with keeping() as rig:
        rig.channels.set_unit(0, False, True)
        fill(rig, 0, 1)
        await rig.do(rig.queue.stop())
        await rig.do(rig.channels.hold())
        rig.device.lose_cache()
        await rig.start(hold=True)
        rig.channels.settle_cache(False, rig.channels.cache_doubts())
        flush = rig.submit("flush", 0, 0)
        rig.turn(5)
        assert not flush.done()
        await rig.do(Repetition(rig.channels, rig.queue).run(), serve=True)
        assert not flush.done()
        await rig.do(rig.channels.let_go())
        await rig.do(rig.queue.release())
        rig.settle()
        assert flush.result() == 0
        assert blocks(rig, 1) == [1]
        assert FLUSH not in [r.type for r in rig.device.requests]


class FullRing:
    """A queue with no room for what is repeated, but for so many at once, or none at all."""

    def __init__(self, room: int, busy: int) -> None:
        self.room = room
        self.busy = busy  # that find no room, whatever there is
        self.running = 0

    async def repeat(self, record: KeptRecord) -> int:
        self.running += 1
        await asyncio.sleep(0)
        full = self.busy > 0 or self.running > self.room
        self.busy -= full
        await asyncio.sleep(0)
        self.running -= 1
        return -errno.EBUSY if full else 0


@in_loop
async def test_no_room_for_a_whole_batch_is_no_refusal() -> None:
    async with keeping() as rig:
        await rig.do(rig.channels.hold())  # and no flush of virtiod's own
        for i in range(AT_ONCE):
            fill(rig, 200 * i, i + 1)
        repetition = Repetition(rig.channels, cast("RequestQueue", FullRing(room=AT_ONCE, busy=AT_ONCE)))
        await repetition.run()
        assert (repetition.repeated, repetition.refused) == (AT_ONCE, 0)


class Flushed(FullRing):
    """It is lost when it has answered a flush."""

    flushed = False

    async def repeat(self, record: KeptRecord) -> int:
        return -errno.ESHUTDOWN if self.flushed else await super().repeat(record)

    async def flush(self, _flush: KeptFlush) -> int:
        self.flushed = True
        return 0


@in_loop
async def test_what_found_no_room_is_not_taken_for_flushed_with_what_came_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeat, "FLUSH_EVERY", 2)
    async with keeping() as rig:
        await rig.do(rig.channels.hold())  # and no flush of virtiod's own
        for i in range(4):
            fill(rig, 200 * i, i + 1)
        repetition = Repetition(rig.channels, cast("RequestQueue", Flushed(room=AT_ONCE, busy=2)))
        with pytest.raises(LostError):
            await repetition.run()
        assert len(rig.channels.records()) == 4  # the first two were never written


@in_loop
async def test_no_room_for_a_single_record_begins_again_with_the_next_connection() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        repetition = Repetition(rig.channels, cast("RequestQueue", FullRing(room=0, busy=0)))
        with pytest.raises(LostError):
            await repetition.run()
        assert len(rig.channels.records()) == 1


@in_loop
async def test_a_user_hears_nothing_of_writes_that_fail_after_a_loss() -> None:
    async with keeping() as rig:
        fill(rig, 0, 1)
        await rig.lose_cache()
        failed = rig.submit("write", 0, BLOCK)
        rig.settle(lambda _request: IOERR)
        flush = rig.submit("flush", 0, 0)
        rig.settle()
        assert (failed.result(), flush.result()) == (-errno.EIO, 0)
