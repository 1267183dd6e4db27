"""Acknowledged writes are kept until a flush that began after their acknowledgement has succeeded."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.support.fake_device import FLUSH, IOERR, OK, OUT, UNSUPP, Request
from tests.support.rig import LARGE_BUFFERS, SMALL_BUFFERS, Rig, in_loop
from virtiod.bdev.keeping import OnLoss
from virtiod.bdev.probe import Flag, Probe

LARGE = 1 << 16
MOST_SMALL = SMALL_BUFFERS // 4  # that one channel keeps
MOST_LARGE = LARGE_BUFFERS // 10


def keeping(on_loss: OnLoss = OnLoss.KEEP, pollers: int = 1) -> Rig:
    return Rig(size=64, write_cache=True, on_loss=on_loss, pollers=pollers)


def kept(rig: Rig) -> tuple[int, int]:
    """Records and bytes."""
    counters = rig.channels.kept_counters()
    return counters.records, counters.bytes


def failing(kind: int, error: int = IOERR) -> Callable[[Request], int]:
    def status(request: Request) -> int:
        return error if request.type == kind else OK

    return status


@pytest.mark.parametrize("op", ["write", "write_zeroes", "unmap"])
@in_loop
async def test_what_was_acknowledged_is_kept_until_a_flush(op: str) -> None:
    async with keeping() as rig:
        done = rig.submit(op, 4096, 1024)
        rig.turn(2)
        assert kept(rig) == (0, 0)
        rig.settle()
        assert done.result() == 0
        assert kept(rig) == (1, 1024)
        assert rig.channels.unstable()
        rig.submit("flush", 0, 0)
        rig.settle()
        assert kept(rig) == (0, 0)
        assert not rig.channels.unstable()


@in_loop
async def test_a_flush_releases_only_what_was_acknowledged_before_it_began() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        late = rig.submit("write", 512, 512)
        flush = rig.submit("flush", 0, 0)
        rig.turn(2)
        for request in rig.device.take():  # the write first
            rig.device.complete(request)
        rig.turn(3)
        assert (late.result(), flush.result()) == (0, 0)
        assert [record.place for record in rig.channels.records()] == [(512, 512)]


@in_loop
async def test_a_flush_that_failed_releases_nothing() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        flush = rig.submit("flush", 0, 0)
        rig.settle(failing(FLUSH))
        assert flush.result() == -errno.EIO
        assert kept(rig) == (1, 512)


@in_loop
async def test_a_fua_write_is_stable_and_so_is_what_was_acknowledged_before_its_flush() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        rig.submit("write", 512, 512, Flag.FUA)
        rig.settle()
        assert kept(rig) == (0, 0)


@in_loop
async def test_with_fua_of_the_device_a_write_is_kept_so_that_it_is_in_order_with_others() -> None:
    async with keeping() as rig:
        rig.channels.set_unit(0, True, True)
        rig.submit("write", 0, 512)
        rig.submit("write", 0, 512, Flag.FUA)
        rig.settle()
        assert [record.place for record in rig.channels.records()] == [(0, 512), (0, 512)]


@in_loop
async def test_fua_that_the_device_forgets_while_a_write_is_in_flight_leaves_nothing_kept() -> None:
    async with keeping() as rig:
        rig.channels.set_unit(0, True, True)
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.turn(2)
        rig.channels.forget_native_fua()
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [OUT, FLUSH]
        assert kept(rig) == (0, 0)
        rig.assert_balanced()


@in_loop
async def test_a_write_that_failed_is_not_kept() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, 512)
        rig.settle(failing(OUT))
        assert kept(rig) == (0, 0)


@pytest.mark.parametrize(
    ("write_cache", "on_loss"), [(False, OnLoss.KEEP), (True, OnLoss.IGNORE), (True, OnLoss.REPORT)]
)
@in_loop
async def test_nothing_is_kept_without_a_cache_or_by_another_policy(write_cache: bool, on_loss: OnLoss) -> None:
    async with Rig(write_cache=write_cache, on_loss=on_loss) as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        assert kept(rig) == (0, 0)


@in_loop
async def test_what_is_kept_is_what_was_written_whatever_becomes_of_the_users_memory() -> None:
    async with keeping() as rig:
        rig.probe.buffer[: 3 * LARGE] = bytes(range(256)) * (3 * 256)
        rig.submit("write", 0, 3 * LARGE - 512, segments=[512, LARGE, 2 * LARGE - 1024])
        rig.settle()
        written = bytes(rig.device.disk[: 3 * LARGE])
        rig.probe.buffer[:] = bytes(rig.probe.size)
        await rig.lose_cache()
        assert rig.device.disk[: 3 * LARGE] == written


@in_loop
async def test_at_half_of_the_bound_virtiod_flushes_by_itself() -> None:
    async with keeping() as rig:
        for i in range(MOST_SMALL // 2 - 1):
            rig.submit("write", 512 * i, 512)
        rig.settle()
        assert [r.type for r in rig.device.requests] == [OUT] * (MOST_SMALL // 2 - 1)
        rig.submit("write", 0, 512)
        rig.settle()
        assert rig.device.requests[-1].type == FLUSH
        assert kept(rig) == (0, 0)
        assert rig.channels.kept_counters().flushes == 1
        assert rig.bdev.stats().ops["flush"].submitted == 0  # users' only


@in_loop
async def test_writes_in_flight_are_not_flushed_before_enough_of_them_are_kept() -> None:
    async with keeping() as rig:
        for i in range(MOST_SMALL + 4):  # four wait for room
            rig.submit("write", 512 * i, 512)
        rig.turn(2)
        written = rig.device.take()
        assert len(written) == MOST_SMALL
        for request in written[: MOST_SMALL // 2]:
            assert not rig.device.take()
            rig.device.complete(request)
            rig.turn(3)
        assert [r.type for r in rig.device.take()] == [FLUSH]
        rig.settle()


@in_loop
async def test_at_the_bound_writes_wait_for_that_flush_in_order() -> None:
    async with keeping() as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(MOST_SMALL + 4)]
        read = rig.submit("read", 0, 512)
        rig.turn(2)
        assert [r.type for r in rig.device.take()] == [OUT] * MOST_SMALL + [0]
        assert rig.channels.in_flight() == MOST_SMALL + 5
        rig.settle()
        assert [d.result() for d in done] == [0] * (MOST_SMALL + 4)
        assert read.result() == 0
        sectors = [r.sector for r in rig.device.requests if r.type == OUT]
        assert sectors == list(range(MOST_SMALL + 4))


@in_loop
async def test_writes_that_wait_go_on_with_a_flush_each_when_virtiods_own_fails() -> None:
    async with keeping() as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(MOST_SMALL + 4)]
        rig.settle(failing(FLUSH))
        assert [d.result() for d in done] == [0] * MOST_SMALL + [-errno.EIO] * 4
        assert kept(rig)[0] == MOST_SMALL
        again = rig.submit("write", 0, 512)
        rig.settle()
        assert again.result() == 0
        assert kept(rig) == (0, 0)


@in_loop
async def test_a_write_that_waits_since_the_device_was_lost_gets_room_when_it_is_back() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, LARGE)
        rig.settle()
        await rig.do(rig.queue.stop())
        await rig.do(rig.channels.hold())
        waits = rig.submit("write", LARGE, MOST_LARGE * LARGE)
        rig.turn(2)
        await rig.lose_cache()
        rig.settle()
        assert waits.result() == 0


@in_loop
async def test_plain_writes_to_a_device_that_refuses_flushes_succeed_and_are_not_kept() -> None:
    async with keeping() as rig:
        refusing = failing(FLUSH, UNSUPP)
        done = [rig.submit("write", 512 * i, 512) for i in range(3 * MOST_SMALL)]
        rig.settle(refusing)
        assert [d.result() for d in done] == [0] * (3 * MOST_SMALL)
        assert kept(rig) == (0, 0)
        flush = rig.submit("flush", 0, 0)
        fua = rig.submit("write", 0, 512, Flag.FUA)
        rig.settle(refusing)
        assert (flush.result(), fua.result()) == (-errno.EOPNOTSUPP, -errno.EOPNOTSUPP)
        flushes = rig.channels.kept_counters().flushes
        rig.submit("write", 0, 512)
        rig.settle(refusing)
        assert rig.channels.kept_counters().flushes == flushes == 1


@in_loop
async def test_a_write_that_is_too_long_to_keep_succeeds_though_the_device_refuses_flushes() -> None:
    async with keeping() as rig:
        done = rig.submit("write", 0, (MOST_LARGE + 1) * LARGE)
        rig.settle(failing(FLUSH, UNSUPP))
        assert done.result() == 0
        again = rig.submit("write", 0, (MOST_LARGE + 1) * LARGE)
        rig.settle(failing(FLUSH, UNSUPP))
        assert again.result() == 0
        assert [r.type for r in rig.device.requests] == [OUT, FLUSH, OUT]


@in_loop
async def test_what_a_device_that_refuses_flushes_loses_is_told_once() -> None:
    async with keeping(pollers=2) as rig:
        other = Probe(rig.memory, rig.pollers[0], rig.channels)
        kept_there = other.submit("write", 0, 512)
        rig.settle()
        done = [rig.submit("write", 512 * i, 512) for i in range(MOST_SMALL)]
        rig.settle(failing(FLUSH, UNSUPP))
        assert [d.result() for d in (kept_there, *done)] == [0] * (MOST_SMALL + 1)
        assert kept(rig) == (0, 0)
        assert (await rig.lose_cache()).repeated == 0
        flushes = []
        for _ in range(2):
            flushes.append(rig.submit("flush", 0, 0))
            rig.settle()
        assert [f.result() for f in flushes] == [-errno.EIO, 0]
        other.close()


@in_loop
async def test_writes_to_a_device_without_flush_are_not_kept_whatever_is_in_doubt() -> None:
    async with Rig(native=frozenset({"read", "write"}), on_loss=OnLoss.KEEP) as rig:
        rig.channels.doubt_cache()
        for length in (512, (MOST_LARGE + 1) * LARGE):
            done = rig.submit("write", 0, length)
            rig.settle()
            assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [OUT, OUT]
        assert kept(rig) == (0, 0)


@in_loop
async def test_a_write_that_is_longer_than_the_bound_is_followed_by_a_flush() -> None:
    async with keeping() as rig:
        done = rig.submit("write", 0, (MOST_LARGE + 1) * LARGE)
        rig.settle()
        assert done.result() == 0
        assert rig.device.requests[-1].type == FLUSH
        assert kept(rig) == (0, 0)
        assert not rig.channels.unstable()


@in_loop
async def test_records_are_bounded_too() -> None:
    async with keeping() as rig:
        done = [rig.submit("unmap", 512 * i, 512) for i in range(1000)]
        rig.settle()
        assert [d.result() for d in done] == [0] * 1000
        assert rig.channels.kept_counters().flushes >= 1


@in_loop
async def test_what_waits_for_room_can_be_failed() -> None:
    async with keeping() as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(MOST_SMALL + 4)]
        rig.turn(2)
        await rig.do(rig.channels.fail_waiting(errno.ETIMEDOUT))
        rig.turn(2)
        assert [d.result() for d in done[MOST_SMALL:]] == [-errno.ETIMEDOUT] * 4
        assert not any(d.done() for d in done[:MOST_SMALL])


@in_loop
async def test_settle_flushes_what_is_kept() -> None:
    async with keeping() as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        assert await rig.do(rig.channels.settle(), serve=True)
        assert kept(rig) == (0, 0)
        flushes = rig.channels.kept_counters().flushes
        assert await rig.do(rig.channels.settle(), serve=True)
        assert rig.channels.kept_counters().flushes == flushes


@in_loop
async def test_what_is_given_up_is_counted() -> None:
    async with keeping() as rig:
        for i in range(3):
            rig.submit("write", 512 * i, 512)
        rig.settle()
        assert await rig.do(rig.channels.close_kept()) == 3


@in_loop
async def test_a_loss_fails_the_next_flush_of_each_user_once() -> None:
    async with keeping(on_loss=OnLoss.REPORT) as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        await rig.lose_cache()
        assert rig.channels.kept_counters().losses == 1
        flushes = []
        for _ in range(2):
            flushes.append(rig.submit("flush", 0, 0))
            rig.settle()
        assert [f.result() for f in flushes] == [-errno.EIO, 0]


@in_loop
async def test_a_loss_fails_a_fua_write_once() -> None:
    async with keeping(on_loss=OnLoss.REPORT) as rig:
        rig.submit("write", 0, 512)
        rig.settle()
        await rig.lose_cache()
        writes = []
        for flags in (0, Flag.FUA, Flag.FUA):
            writes.append(rig.submit("write", 0, 512, flags))
            rig.settle()
        assert [w.result() for w in writes] == [0, -errno.EIO, 0]


@pytest.mark.parametrize("flushed", [False, True])
@in_loop
async def test_a_loss_without_unstable_writes_is_none(flushed: bool) -> None:
    async with keeping(on_loss=OnLoss.REPORT) as rig:
        if flushed:
            rig.submit("write", 0, 512)
            rig.settle()
        flush = rig.submit("flush", 0, 0)
        rig.settle()
        await rig.lose_cache()
        again = rig.submit("flush", 0, 0)
        rig.settle()
        assert (flush.result(), again.result()) == (0, 0)
        assert rig.channels.kept_counters().losses == 0
