"""Devices go away and come back: what was in flight is submitted again, once; what waited too long fails, once."""

from __future__ import annotations

import asyncio
import errno
import time

import pytest

from tests.support.fake_device import FLUSH, GET_ID, IN, OUT
from tests.support.rig import Rig, in_loop
from tests.support.rings import Ring, each_ring
from tests.support.waiting import soon
from virtiod.bdev.probe import Flag
from virtiod.core.errors import DeviceError
from virtiod.load.job import LoadJob
from virtiod.load.workload import JobSpec, Workload

HOUR = 3_600_000_000_000  # ns


@each_ring
@in_loop
async def test_what_was_in_flight_or_waited_is_submitted_again_exactly_once(ring: Ring) -> None:
    async with ring.rig(size=16) as rig:
        rig.probe.buffer[:] = bytes(i & 0xFF for i in range(512)) * (rig.probe.size // 512)
        done = [rig.submit("write", 512 * i, 512) for i in range(40)]
        rig.turn(2)
        taken = rig.device.take()
        for r in taken[1:3]:
            rig.device.complete(r, rig.device.execute(r))
        rig.turn(2)
        answered = {r.sector for r in taken[1:3]}
        rig.device.requests.clear()
        await rig.restart()
        rig.settle()
        assert [d.result() for d in done] == [0] * 40
        assert sorted(r.sector for r in rig.device.requests) == [i for i in range(40) if i not in answered]
        assert rig.device.disk[: 40 * 512] == rig.probe.buffer[: 40 * 512]


@each_ring
@in_loop
async def test_pieces_are_submitted_again_as_they_were(ring: Ring) -> None:
    async with ring.rig(size=16, max_segments=3, max_segment=700, max_transfer=1024) as rig:
        rig.probe.buffer[:8192] = bytes(range(256)) * 32
        done = rig.submit("write", 4096, 8192, segments=[1, 4000, 95, 4096])
        for _ in range(3):
            rig.turn(2)
            rig.device.take()
            before = sorted((r.sector, r.out) for r in rig.device.held)
            assert before
            await rig.restart()
            rig.turn(2)
            rig.device.take()
            assert sorted((r.sector, r.out) for r in rig.device.held) == before
            for r in list(rig.device.held)[:2]:
                rig.device.complete(r, rig.device.execute(r))
        rig.settle()
        assert done.result() == 0
        assert rig.device.disk[4096:12288] == rig.probe.buffer[:8192]


@each_ring
@in_loop
async def test_a_fua_write_begins_again_when_its_device_dies_before_the_flush(ring: Ring) -> None:
    async with ring.rig(write_cache=True) as rig:
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.turn(2)
        (write,) = rig.device.take()
        rig.device.complete(write)
        rig.turn(2)
        await rig.restart()
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [OUT, OUT, FLUSH]


@each_ring
@in_loop
async def test_a_fua_write_begins_again_when_its_device_dies_in_the_flush(ring: Ring) -> None:
    async with ring.rig(write_cache=True) as rig:
        done = rig.submit("write", 0, 512, Flag.FUA)
        rig.turn(2)
        rig.device.complete(rig.device.take()[0])
        rig.turn(2)
        assert [r.type for r in rig.device.take()] == [FLUSH]
        await rig.restart()
        rig.settle()
        assert done.result() == 0
        assert [r.type for r in rig.device.requests] == [OUT, FLUSH, OUT, FLUSH]


@in_loop
async def test_a_fua_write_whose_flush_waits_for_room_begins_again() -> None:
    async with Rig(size=4, write_cache=True) as rig:
        done = [rig.submit("write", 0, 512, Flag.FUA), *(rig.submit("read", 512 * i, 512) for i in range(8))]
        rig.turn(2)
        first, *_ = rig.device.take()
        assert first.type == OUT
        rig.device.complete(first)
        rig.turn(2)
        await rig.restart()
        rig.device.requests.clear()
        rig.settle()
        assert [d.result() for d in done] == [0] * 9
        assert [r.type for r in rig.device.requests if r.type != IN] == [OUT, FLUSH]


@pytest.mark.parametrize("op", ["write", "write_zeroes", "unmap"])
@pytest.mark.parametrize("size", [4, 8])
@in_loop
async def test_a_write_in_pieces_begins_again_as_the_pieces_that_were_answered_may_be_gone(op: str, size: int) -> None:
    async with Rig(size=size, write_cache=True, max_transfer=512, max_unmap=512, max_write_zeroes=512) as rig:
        rig.probe.buffer[:4096] = bytes(range(256)) * 16
        done = rig.submit(op, 0, 4096)
        for _ in range(2):
            rig.turn(2)
            for request in rig.device.take()[:-1]:
                rig.device.complete(request)
        await rig.restart()
        rig.device.requests.clear()
        rig.settle()
        assert done.result() == 0
        places = [r.sector if op == "write" else r.ranges[0][0] for r in rig.device.requests]
        assert places == list(range(8))


@in_loop
async def test_what_a_device_without_a_cache_had_answered_is_not_written_again() -> None:
    async with Rig(write_cache=False, max_transfer=512) as rig:
        done = rig.submit("write", 0, 2048)
        rig.turn(2)
        for request in rig.device.take()[:2]:
            rig.device.complete(request)
        rig.turn(2)
        await rig.restart()
        rig.device.requests.clear()
        rig.settle()
        assert done.result() == 0
        assert [r.sector for r in rig.device.requests] == [2, 3]


@each_ring
@in_loop
async def test_io_to_a_stopped_queue_waits_for_the_start(ring: Ring) -> None:
    async with ring.rig() as rig:
        await rig.do(rig.queue.stop())
        done = [rig.submit(op, 0, 512) for op in ("read", "write", "unmap", "write_zeroes")]
        done.append(rig.submit("flush", 0, 0))
        rig.turn(5)
        assert not any(d.done() for d in done)
        assert rig.channels.in_flight() == 5
        await rig.start()
        rig.settle()
        assert [d.result() for d in done] == [0] * 5


async def come_back_and_ask(rig: Rig) -> asyncio.Future[str]:
    """The device was lost and is back: GET_ID has some of the descriptors before I/O. The future of its answer."""
    await rig.do(rig.queue.stop())
    await rig.start(hold=True)
    asked = asyncio.ensure_future(rig.queue.get_id())
    await asyncio.sleep(0)
    rig.turn()
    return asked


@in_loop
async def test_without_indirect_descriptors_what_finds_none_on_a_return_waits_for_them() -> None:
    """A command of the control plane may have taken those that an I/O had."""
    async with Rig(size=8, indirect=False) as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(3)]
        rig.turn(2)
        assert len(rig.device.take()) == 2  # three descriptors each
        asked = await come_back_and_ask(rig)
        (get_id,) = rig.device.take()
        await rig.do(rig.queue.release())
        rig.turn(3)
        (write,) = rig.device.take()
        assert rig.queue.counters().in_flight == 3
        rig.device.complete(get_id)
        rig.turn(2)
        assert [r.type for r in rig.device.take()] == [OUT]
        rig.device.complete(write)
        rig.settle()
        assert await soon(asked) == ""
        assert [d.result() for d in done] == [0] * 3


@in_loop
async def test_a_request_that_is_short_of_descriptors_comes_before_new_io() -> None:
    async with Rig(size=8, indirect=False) as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(2)]
        rig.turn(2)
        asked = await come_back_and_ask(rig)
        await rig.do(rig.queue.release())
        done += [rig.submit("flush", 0, 0) for _ in range(4)]
        rig.settle()
        assert await soon(asked) == ""
        assert [d.result() for d in done] == [0] * 6
        assert [r.sector for r in rig.device.requests if r.type == OUT] == [0, 1]
        assert [r.type for r in rig.device.requests][-4:] == [FLUSH] * 4


@in_loop
async def test_a_request_that_is_short_of_descriptors_is_held_when_the_device_is_lost_again() -> None:
    async with Rig(size=8, indirect=False) as rig:
        done = [rig.submit("write", 512 * i, 512) for i in range(2)]
        rig.turn(2)
        asked = await come_back_and_ask(rig)
        await rig.do(rig.queue.release())
        rig.device.take()
        await rig.do(rig.queue.stop())
        await rig.start(hold=True)
        rig.turn(3)
        assert [r.type for r in rig.device.take()] == [GET_ID]
        await rig.do(rig.queue.release())
        rig.device.requests.clear()
        rig.settle()
        assert await soon(asked) == ""
        assert [d.result() for d in done] == [0] * 2
        assert sorted(r.sector for r in rig.device.requests) == [0, 1]


@in_loop
async def test_a_request_that_failed_while_it_was_short_of_descriptors_holds_up_nothing() -> None:
    async with Rig(size=8, indirect=False) as rig:
        lost = [rig.submit("write", 512 * i, 512) for i in range(2)]
        rig.turn(2)
        asked = await come_back_and_ask(rig)
        await rig.do(rig.queue.release())
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.fail(errno.ETIMEDOUT, time.monotonic_ns()))
        assert [d.result() for d in lost] == [-errno.ETIMEDOUT] * 2
        await rig.start()
        done = rig.submit("read", 0, 512)
        rig.settle()
        assert done.result() == 0
        with pytest.raises(DeviceError, match="GET_ID: ETIMEDOUT"):
            await soon(asked)


@each_ring
@in_loop
async def test_stop_may_be_called_twice(ring: Ring) -> None:
    async with ring.rig() as rig:
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.stop())


@pytest.mark.parametrize("size", [4, 256])
@each_ring
@in_loop
async def test_only_what_was_submitted_before_a_time_fails(size: int, ring: Ring) -> None:
    async with ring.rig(size=size) as rig:
        old = [rig.submit("read", 512 * i, 512) for i in range(10)]
        rig.turn(2)
        between = time.monotonic_ns()
        new = [rig.submit("read", 512 * i, 512) for i in range(10)]
        rig.turn(2)
        await rig.do(rig.queue.stop())
        failed = await rig.do(rig.queue.fail(errno.ETIMEDOUT, between))
        assert failed == min(10, ring.at_once(size))
        assert [d.result() for d in old] == [-errno.ETIMEDOUT] * 10
        assert not any(d.done() for d in new)
        assert rig.bdev.stats().ops["read"].failures == {"timeout": 10}
        await rig.start()
        rig.settle()
        assert [d.result() for d in new] == [0] * 10


@each_ring
@in_loop
async def test_a_running_queue_fails_nothing(ring: Ring) -> None:
    """Its device may yet answer, and write to the buffers."""
    async with ring.rig() as rig:
        done = rig.submit("read", 0, 512)
        rig.turn(2)
        assert await rig.do(rig.queue.fail(errno.ETIMEDOUT, time.monotonic_ns())) == 0
        assert await rig.do(rig.queue.fail(errno.ENODEV)) == 0
        rig.settle()
        assert done.result() == 0


@each_ring
@in_loop
async def test_after_the_end_every_io_fails_at_once(ring: Ring) -> None:
    async with ring.rig() as rig:
        rig.submit("read", 0, 512)
        rig.turn()
        await rig.do(rig.queue.stop())
        assert await rig.do(rig.queue.fail(errno.ENODEV)) == 1
        late = rig.submit("write", 0, 512)
        rig.turn(2)
        assert late.result() == -errno.ENODEV
        assert rig.bdev.stats().ops["write"].failures == {"nodevice": 1}


@each_ring
@in_loop
async def test_an_io_with_a_failed_piece_in_line_ends_once(ring: Ring) -> None:
    async with ring.rig(size=4, max_transfer=512) as rig:
        done = rig.submit("read", 0, 512 * 10)
        rig.turn(2)
        assert len(rig.device.take()) == ring.at_once(4)
        await rig.do(rig.queue.stop())
        assert await rig.do(rig.queue.fail(errno.ENODEV)) == ring.at_once(4)
        assert done.result() == -errno.ENODEV


# ---- drain


@each_ring
@in_loop
async def test_drain_returns_when_the_last_io_is_back(ring: Ring) -> None:
    async with ring.rig() as rig:
        await rig.do(rig.queue.drain())
        for _ in range(20):
            rig.submit("read", 0, 512)
        rig.turn(2)
        drained = asyncio.ensure_future(rig.queue.drain())
        await asyncio.sleep(0)
        rig.turn(2)
        while rig.device.take() or rig.device.held:
            await asyncio.sleep(0)
            assert not drained.done()
            rig.device.complete(rig.device.held[0])
            rig.turn(2)
        await soon(drained)


@each_ring
@in_loop
async def test_fail_ends_a_drain(ring: Ring) -> None:
    async with ring.rig() as rig:
        rig.submit("read", 0, 512)
        rig.turn(2)
        drained = asyncio.ensure_future(rig.queue.drain())
        await asyncio.sleep(0)
        rig.turn()
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.fail(errno.ENODEV))
        await soon(drained)


@each_ring
@in_loop
async def test_a_second_drain_returns_with_the_first_even_if_that_was_given_up(ring: Ring) -> None:
    async with ring.rig() as rig:
        done = rig.submit("read", 0, 512)
        rig.turn(2)
        drains = [asyncio.ensure_future(rig.queue.drain()) for _ in range(3)]
        await asyncio.sleep(0)
        rig.turn(2)
        drains[0].cancel()
        await asyncio.sleep(0)
        assert not any(d.done() for d in drains[1:])
        rig.settle()
        await soon(asyncio.gather(*drains[1:]))
        assert done.done()


# ---- commands


@each_ring
@in_loop
async def test_get_id_on_a_stopped_queue_fails(ring: Ring) -> None:
    async with ring.rig() as rig:
        await rig.do(rig.queue.stop())
        with pytest.raises(DeviceError, match="GET_ID: ENODEV"):
            await rig.do(rig.queue.get_id())


@each_ring
@in_loop
async def test_get_id_in_flight_is_asked_again(ring: Ring) -> None:
    async with ring.rig() as rig:
        rig.device.serial = b"disk 7".ljust(20, b"\0")
        asked = asyncio.ensure_future(rig.queue.get_id())
        await asyncio.sleep(0)
        rig.turn(2)
        assert [r.type for r in rig.device.take()] == [GET_ID]
        await rig.restart()
        rig.settle()
        assert await soon(asked) == "disk 7"
        assert [r.type for r in rig.device.requests] == [GET_ID, GET_ID]


# ---- time


@in_loop
async def test_io_that_waits_in_line_does_not_make_a_device_that_answers_overdue() -> None:
    async with Rig(size=4) as rig:
        done = [rig.submit("read", 512 * i, 512) for i in range(12)]
        rig.turn(2)
        for _ in range(3):
            rig.device.take()
            assert await rig.do(rig.queue.overdue(time.monotonic_ns(), HOUR)) == 3  # it has answered nothing yet
            rig.device.serve()
            answered = time.monotonic_ns()
            rig.turn(2)
            assert await rig.do(rig.queue.overdue(answered, HOUR)) == 0  # what is on the ring now came there later
        rig.settle()
        assert [d.result() for d in done] == [0] * 12


@in_loop
async def test_a_device_that_answers_anything_is_not_overdue() -> None:
    async with Rig(size=8) as rig:
        done = [rig.submit("read", 512 * i, 512) for i in range(4)]
        rig.turn(2)
        rig.device.take()
        given = time.monotonic_ns()
        assert await rig.do(rig.queue.overdue(given, HOUR)) == 4
        rig.device.complete(rig.device.held[3])
        rig.turn(2)
        assert rig.queue.progress_ns > given
        assert await rig.do(rig.queue.overdue(given, HOUR)) == 0
        assert await rig.do(rig.queue.overdue(time.monotonic_ns(), HOUR)) == 3
        rig.settle()
        assert [d.result() for d in done] == [0] * 4


@in_loop
async def test_what_is_passed_over_for_a_whole_timeout_is_overdue_though_others_are_answered() -> None:
    async with Rig(size=8) as rig:
        forgotten = rig.submit("read", 0, 512)
        rig.turn(2)
        rig.device.take()
        given = time.monotonic_ns()
        rig.submit("read", 512, 512)
        rig.turn(2)
        rig.device.take()
        rig.device.complete(rig.device.held[1])
        rig.turn(2)
        assert await rig.do(rig.queue.overdue(given, HOUR)) == 0
        assert await rig.do(rig.queue.overdue(given, 1)) == 1  # the other one came more than 1 ns later
        assert not forgotten.done()
        rig.settle()


@in_loop
async def test_only_io_that_the_device_was_given_before_a_time_expires() -> None:
    async with Rig(size=4, max_transfer=512) as rig:
        old = [rig.submit("read", 512 * i, 512) for i in range(2)]
        large = rig.submit("read", 0, 512 * 10)  # has a piece on the ring
        waiting = rig.submit("read", 0, 512)
        rig.turn(2)
        given = time.monotonic_ns()
        assert await rig.do(rig.queue.expire(given)) == 0  # it runs
        await rig.do(rig.queue.stop())
        assert await rig.do(rig.queue.expire(given)) == 3
        assert [d.result() for d in (*old, large)] == [-errno.ETIMEDOUT] * 3
        assert not waiting.done()
        await rig.start()
        rig.settle()
        assert waiting.result() == 0


# ---- a device that may still be alive


async def load(rig: Rig) -> tuple[LoadJob, asyncio.Future[None]]:
    """A job of one I/O, which was submitted."""
    job = LoadJob(rig.memory, rig.poller, rig.channels, JobSpec(Workload("read", queue_depth=1), rig.bdev.size, 1))
    running = asyncio.ensure_future(job.run())
    await asyncio.sleep(0)
    rig.turn(2)
    return job, running


def close(rig: Rig, job: LoadJob) -> int:
    """The session whose device may still use the job's buffers."""
    epochs: list[int] = []

    def give_back(epoch: int, address: int) -> None:
        epochs.append(epoch)
        rig.memory.free(address)

    job.close(give_back)
    return epochs[0]


@in_loop
async def test_only_the_buffers_of_what_the_device_was_given_are_in_doubt() -> None:
    async with Rig(size=4) as rig:
        given, *others = await load(rig), rig.submit("read", 0, 512), rig.submit("read", 0, 512)
        waiting = await load(rig)
        assert len(rig.device.take()) == 3
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.doubt(7))
        assert await rig.do(rig.queue.in_doubt()) == 3
        await rig.do(rig.queue.fail(errno.ETIMEDOUT, time.monotonic_ns()))
        assert await rig.do(rig.queue.in_doubt()) == 0
        assert [d.result() for d in others] == [-errno.ETIMEDOUT] * 2
        await soon(asyncio.gather(given[1], waiting[1]))
        assert [close(rig, job) for job, _ in (given, waiting)] == [7, 0]


@in_loop
async def test_a_device_that_was_given_no_io_has_none_though_it_did_not_stop() -> None:
    async with Rig(size=4) as rig:
        done = rig.submit("write", 0, 512)
        rig.turn(2)
        await rig.do(rig.queue.stop())
        await rig.start(hold=True)
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.doubt(7))
        assert await rig.do(rig.queue.in_doubt()) == 0
        await rig.start()
        rig.settle()
        assert done.result() == 0


@in_loop
async def test_nothing_is_in_doubt_when_the_device_is_known_to_be_gone() -> None:
    async with Rig(size=4) as rig:
        job, running = await load(rig)
        await rig.do(rig.queue.stop())
        await rig.do(rig.queue.doubt(7))
        await rig.do(rig.queue.doubt(0))
        await rig.do(rig.queue.fail(errno.ETIMEDOUT, time.monotonic_ns()))
        await soon(running)
        assert close(rig, job) == 0


@each_ring
@in_loop
async def test_what_an_old_device_writes_to_its_rings_reaches_nobody_after_they_were_renewed(ring: Ring) -> None:
    async with ring.rig(size=8) as rig:
        rig.probe.buffer[:4096] = b"n" * 4096
        done = rig.submit("write", 0, 4096)
        rig.turn(2)
        await rig.do(rig.queue.stop())
        old = await rig.do(rig.queue.renew())
        size = rig.memory.size_of(old)
        assert not old <= rig.queue.ring_addresses()[0] < old + size
        rig.device.look_at(rig.queue)
        await rig.start()
        rig.memory.view(old, size)[:] = b"\xff" * size
        rig.settle()
        assert done.result() == 0
        assert rig.device.disk[:4096] == b"n" * 4096
        rig.memory.view(old, size)[:] = b"\xee" * size
        again = rig.submit("read", 0, 4096)
        rig.settle()
        assert again.result() == 0
        assert not rig.broken
        rig.memory.free(old)
