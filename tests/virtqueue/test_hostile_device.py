"""A device that writes what it may not: it is found out once, and costs its own I/O only."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Callable

import pytest

from tests.support.fake_device import ALL, OK, FakeDevice, Request
from tests.support.rig import Rig, in_loop
from tests.support.rings import Ring, each_ring
from tests.support.waiting import soon
from virtiod.core.errors import DeviceError

Lie = Callable[[FakeDevice, list[Request]], None]


def id_out_of_range(device: FakeDevice, _requests: list[Request]) -> None:
    device.push(device.size)


def huge_id(device: FakeDevice, _requests: list[Request]) -> None:
    device.push(0xFFFFFFFF)


def id_of_16_bits_and_more(device: FakeDevice, requests: list[Request]) -> None:
    device.push(requests[0].head | 0x10000)


def id_not_in_flight(device: FakeDevice, requests: list[Request]) -> None:
    device.push(next(i for i in range(device.size) if i not in {r.head for r in requests}))


def middle_of_a_chain(device: FakeDevice, requests: list[Request]) -> None:
    _, _, _, after = struct.unpack_from("<QIHH", device.desc, 16 * requests[0].head)
    device.push(after if not requests[0].indirect else device.size - 1)


def same_id_twice(device: FakeDevice, requests: list[Request]) -> None:
    device.complete(requests[0])
    device.push(requests[0].head)


def index_one_too_far(device: FakeDevice, requests: list[Request]) -> None:
    device.publish(device.used_idx + len(requests) + 1)


def index_behind(device: FakeDevice, _requests: list[Request]) -> None:
    device.publish((device.used_idx - 1) & 0xFFFF)


def index_far_ahead(device: FakeDevice, _requests: list[Request]) -> None:
    device.publish((device.used_idx + 0x8000) & 0xFFFF)


LIES = [
    id_out_of_range,
    huge_id,
    id_of_16_bits_and_more,
    id_not_in_flight,
    middle_of_a_chain,
    same_id_twice,
    index_one_too_far,
    index_behind,
    index_far_ahead,
]


@each_ring
@pytest.mark.parametrize("lie", LIES)
@in_loop
async def test_a_lie_in_the_used_ring_breaks_the_queue_once_and_loses_nothing(lie: Lie, ring: Ring) -> None:
    async with ring.rig(size=16) as rig:
        await _some_good_io(rig)
        done = [rig.submit("read", 512 * i, 512) for i in range(12)]
        rig.turn(2)
        requests = rig.device.take()
        lie(rig.device, requests)
        rig.turn(5)
        assert rig.broken == 1
        truly = [d for d in done if d.done()]
        assert len(truly) == (1 if lie is same_id_twice else 0)
        assert all(d.result() == 0 for d in truly)
        # Whatever comes afterwards is not looked at.
        for request in list(rig.device.held):
            rig.device.complete(request)
        rig.turn(5)
        assert [d for d in done if d.done()] == truly
        assert rig.broken == 1
        await rig.do(rig.queue.stop())
        in_flight = rig.queue.counters().in_flight
        assert in_flight >= len(requests) - len(truly)
        assert await rig.do(rig.queue.fail(errno.EIO)) == in_flight
        assert [d.result() for d in done if d not in truly] == [-errno.EIO] * (12 - len(truly))


@each_ring
@pytest.mark.parametrize("lie", LIES)
@in_loop
async def test_what_was_in_flight_at_a_lie_runs_after_the_device_came_back(lie: Lie, ring: Ring) -> None:
    async with ring.rig(size=16) as rig:
        done = [rig.submit("read", 512 * i, 512) for i in range(12)]
        rig.turn(2)
        lie(rig.device, rig.device.take())
        rig.turn(3)
        assert rig.broken == 1
        await rig.restart()
        rig.settle()
        assert [d.result() for d in done] == [0] * 12
        assert rig.broken == 1
        rig.device.push(99)
        rig.turn(3)
        assert rig.broken == 2, "a second lie, after the restart, is told again"


@each_ring
@in_loop
async def test_io_that_arrives_after_the_lie_waits_with_the_rest(ring: Ring) -> None:
    async with ring.rig(size=8) as rig:
        rig.device.push(99)
        rig.turn(2)
        done = [rig.submit("read", 0, 512) for _ in range(20)]
        rig.turn(3)
        assert not any(d.done() for d in done)
        await rig.restart()
        rig.settle()
        assert [d.result() for d in done] == [0] * 20


@each_ring
@in_loop
async def test_answers_before_the_lie_in_the_same_round_count(ring: Ring) -> None:
    async with ring.rig(size=16) as rig:
        done = [rig.submit("read", 0, 512) for _ in range(4)]
        rig.turn(2)
        first, second, *_ = rig.device.take()
        rig.device.complete(first)
        rig.device.complete(second)
        rig.device.push(500)
        rig.turn(2)
        assert [d.done() for d in done] == [True, True, False, False]
        assert rig.broken == 1


@each_ring
@in_loop
async def test_scribbling_over_descriptors_and_the_avail_ring_harms_nobody_else(ring: Ring) -> None:
    async with ring.rig(size=16) as rig:
        done = [rig.submit("read", 512 * i, 512) for i in range(5)]
        rig.turn(2)
        requests = rig.device.take()
        rig.device.desc[:] = b"\xff" * len(rig.device.desc)
        rig.device.avail[4:] = b"\xff" * (len(rig.device.avail) - 4)
        for r in requests:
            rig.device.complete(r)
        rig.turn(3)
        assert [d.result() for d in done] == [0] * 5
        await rig.restart()
        more = [rig.submit("read", 512 * i, 512) for i in range(20)]
        rig.settle()
        assert [d.result() for d in more] == [0] * 20


async def answered(rig: Rig, op: str, written: int) -> int:
    """The status of an I/O of 512 bytes that succeeds with this used length."""
    done = rig.submit(op, 0, 512)
    rig.turn(2)
    (request,) = rig.device.take()
    rig.device.held.clear()
    rig.memory.view(request.status, 1)[0] = OK
    rig.device.push(request.head, written)
    rig.turn(2)
    return done.result()


@pytest.mark.parametrize(
    ("written", "status"), [(0, -errno.EIO), (1, -errno.EIO), (511, -errno.EIO), (512, 0), (513, 0), (ALL, 0)]
)
@in_loop
async def test_a_read_whose_data_was_not_all_written_fails(written: int, status: int) -> None:
    """virtio 1.2 §2.7.8.2; that the status was written is seen by itself."""
    async with Rig() as rig:
        assert await answered(rig, "read", written) == status
        assert rig.bdev.stats().ops["read"].failures == ({"io": 1} if status else {})


@pytest.mark.parametrize("written", [0, 1, ALL])
@in_loop
async def test_the_used_length_of_a_write_says_nothing(written: int) -> None:
    async with Rig() as rig:
        assert await answered(rig, "write", written) == 0


async def serial(rig: Rig, written: int) -> str:
    """What GET_ID finds out if the device writes its serial with this used length."""
    asked = asyncio.ensure_future(rig.queue.get_id())
    await asyncio.sleep(0)
    rig.turn(2)
    (request,) = rig.device.take()
    rig.device.execute(request)
    rig.device.held.clear()
    rig.memory.view(request.status, 1)[0] = OK
    rig.device.push(request.head, written)
    rig.turn(2)
    return await soon(asked)


@pytest.mark.parametrize("written", [0, 1, 20])
@in_loop
async def test_a_serial_is_what_was_written(written: int) -> None:
    """0 is what Cloud Hypervisor's vhost-user-blk says, 1 what ACRN does."""
    async with Rig() as rig:
        rig.device.serial = b"disk 7".ljust(20, b"\0")
        assert await serial(rig, written) == "disk 7"


@pytest.mark.parametrize("written", [2, 19])
@in_loop
async def test_a_serial_that_was_not_all_written_is_an_error(written: int) -> None:
    async with Rig() as rig:
        rig.device.serial = b"disk 7".ljust(20, b"\0")
        with pytest.raises(DeviceError, match="GET_ID: EIO"):
            await serial(rig, written)


@in_loop
async def test_a_device_that_writes_no_serial_has_none_not_the_one_that_was_there() -> None:
    async with Rig(size=4) as rig:
        rig.device.serial = b"disk 7".ljust(20, b"\0")
        assert await serial(rig, 21) == "disk 7"
        asked = asyncio.ensure_future(rig.queue.get_id())
        await asyncio.sleep(0)
        rig.turn(2)
        rig.device.complete(rig.device.take()[0])
        rig.turn(2)
        assert await soon(asked) == ""


@in_loop
async def test_a_device_that_counts_its_status_only_shows_it_when_it_tells_its_serial() -> None:
    """ACRN and bhyve: 1 byte, whatever they wrote."""
    async with Rig() as rig:
        assert not rig.queue.counts_status_only
        await serial(rig, 1)
        assert rig.queue.counts_status_only
        assert await answered(rig, "read", 1) == 0
        assert await answered(rig, "read", 511) == -errno.EIO
        await serial(rig, 21)
        assert not rig.queue.counts_status_only
        assert await answered(rig, "read", 1) == -errno.EIO
        rig.queue.expect_status_only(True)
        assert await answered(rig, "read", 1) == 0


async def _some_good_io(rig: Rig) -> None:
    good = [rig.submit("write", 512 * i, 512) for i in range(40)]
    rig.settle()
    assert [d.result() for d in good] == [0] * 40
