"""The driver's side of a split ring: indexes that wrap, both kinds of descriptors, suppression, waiting
(virtio 1.2 §2.7)."""

from __future__ import annotations

import pytest

from tests.support.rig import Rig, in_loop
from virtiod.bdev.limits import RequestLimits

BOTH = [True, False]


@pytest.mark.parametrize("event_idx", BOTH)
@pytest.mark.parametrize("indirect", BOTH)
@pytest.mark.parametrize("size", [4, 8, 256])
@in_loop
async def test_indexes_wrap_at_65536_and_nothing_is_lost(size: int, indirect: bool, event_idx: bool) -> None:
    at_once = min(size, 64)
    async with Rig(size=size, indirect=indirect, event_idx=event_idx, max_segments=2) as rig:
        rig.device.want_kicks(True)
        answered = 0
        # One I/O of many pieces keeps the ring full without a call for each request.
        for _ in range(5):
            first = [rig.submit("unmap", 0, 512) for _ in range(at_once)]
            answered += rig.rush()
            assert all(f.result() == 0 for f in first)
        rig.channels.limit({"read", "unmap"}, RequestLimits(2, 512, 512, 512, 512))
        big = []
        while answered < 65536 + 2 * size + 100:
            big.append(rig.submit("unmap", 0, 4 << 20))
            answered += rig.rush()
        assert all(f.result() == 0 for f in big)
        assert rig.device.avail_idx() == answered & 0xFFFF
        assert answered == rig.queue.counters().completed
        if event_idx:  # still no interrupt is asked for, however far the index went
            assert (rig.device.used_event() - rig.device.used_idx) & 0xFFFF >= size
        read = rig.submit("read", 512, 512)
        rig.device.disk[512:1024] = b"after!!!" * 64
        rig.settle()
        assert read.result() == 0
        assert rig.probe.buffer[:512] == b"after!!!" * 64


@pytest.mark.parametrize("size", [4, 8, 64])
@pytest.mark.parametrize("indirect", BOTH)
@in_loop
async def test_a_chain_may_be_as_long_as_the_ring(size: int, indirect: bool) -> None:
    async with Rig(size=size, indirect=indirect) as rig:
        done = [rig.submit("write", 0, 512 * (size - 2), segments=[512] * (size - 2)) for _ in range(3)]
        rig.settle()
        assert [d.result() for d in done] == [0] * 3
        assert [r.descriptors for r in rig.device.requests] == [size] * 3


@pytest.mark.parametrize(("indirect", "at_once"), [(True, 7), (False, 2)])
@in_loop
async def test_io_beyond_the_ring_waits_and_runs_in_order(indirect: bool, at_once: int) -> None:
    async with Rig(size=8, indirect=indirect) as rig:
        done = [rig.submit("read", 512 * i, 512, at=512 * i) for i in range(40)]
        rig.turn(2)
        assert len(rig.device.take()) == at_once
        assert rig.queue.counters().full == 40 - at_once
        assert rig.queue.counters().in_flight == at_once
        while rig.device.held:
            rig.device.complete(rig.device.held[0])
            rig.turn(2)
            rig.device.take()
            assert len(rig.device.held) <= at_once
        assert [r.sector for r in rig.device.requests] == list(range(40))
        assert all(d.result() == 0 for d in done)


@in_loop
async def test_a_small_io_does_not_overtake_a_large_one_that_waits() -> None:
    async with Rig(size=8, indirect=False) as rig:
        sizes = [5, 5, 1, 1]
        done = [rig.submit("write", 4096 * i, 512 * n, segments=[512] * n) for i, n in enumerate(sizes)]
        rig.turn(2)
        assert [r.sector for r in rig.device.take()] == [0]
        rig.settle()
        assert [r.sector for r in rig.device.requests] == [0, 8, 16, 24]
        assert all(d.result() == 0 for d in done)


@pytest.mark.parametrize("indirect", BOTH)
@in_loop
async def test_requests_may_be_answered_in_any_order(indirect: bool) -> None:
    async with Rig(size=32, indirect=indirect) as rig:
        for i in range(64):
            rig.device.disk[512 * i : 512 * i + 512] = bytes([i]) * 512
        done = [rig.submit("read", 512 * i, 512, at=512 * i) for i in range(64)]
        rig.turn(2)
        while rig.device.take() or rig.device.held:
            request = rig.device.held[len(rig.device.held) // 2]
            rig.device.complete(request, rig.device.execute(request))
            rig.turn(2)
        assert all(d.result() == 0 for d in done)
        assert [rig.probe.buffer[512 * i] for i in range(64)] == list(range(64))


# ---- suppression


@pytest.mark.parametrize("event_idx", BOTH)
@in_loop
async def test_a_device_that_wants_no_kick_gets_none(event_idx: bool) -> None:
    async with Rig(size=16, event_idx=event_idx) as rig:
        rig.device.want_kicks(False)
        done = [rig.submit("read", 0, 512) for _ in range(4)]
        rig.turn(2)
        assert rig.device.kicks() == 0
        rig.device.take()
        rig.device.want_kicks(True)
        done.append(rig.submit("read", 0, 512))
        rig.turn(2)
        assert rig.device.kicks() == 1
        rig.settle()
        assert all(d.result() == 0 for d in done)


@pytest.mark.parametrize("event_idx", BOTH)
@in_loop
async def test_one_kick_for_all_that_one_round_submits(event_idx: bool) -> None:
    async with Rig(size=16, event_idx=event_idx) as rig:
        rig.device.want_kicks(True)
        for _ in range(10):
            rig.submit("read", 0, 512)
        rig.turn()
        assert rig.device.kicks() == 1
        assert rig.queue.counters().kicks == 1
        rig.settle()


@in_loop
async def test_event_idx_is_compared_across_the_wrap() -> None:
    """A kick is due when the index passes the event, also from 65535 to 0; a plain >= would lose it."""
    async with Rig(size=8, event_idx=True) as rig:
        rig.channels.limit({"unmap"}, RequestLimits(1, 512, 512, 512, 512))
        answered = 0
        while answered < 65536 - 4:
            rig.submit("unmap", 0, min(8192, 65536 - 4 - answered) * 512)
            answered += rig.rush()
        assert rig.device.avail_idx() == 65532
        kicks = []
        for _ in range(8):
            rig.device.want_kicks(True)
            rig.device.kicks()
            rig.submit("unmap", 0, 512)
            rig.turn(2)
            kicks.append(rig.device.kicks())
            rig.settle(lambda _: 0)
        assert kicks == [1] * 8


@pytest.mark.parametrize("event_idx", BOTH)
@in_loop
async def test_no_interrupt_is_asked_for_while_the_poller_is_awake(event_idx: bool) -> None:
    async with Rig(size=8, event_idx=event_idx) as rig:
        for _ in range(100):
            rig.submit("read", 0, 512)
            rig.settle()
            if event_idx:  # an event that the next entries don't pass
                assert (rig.device.used_idx - rig.device.used_event() - 1) & 0xFFFF < 0x8000
                assert (rig.device.used_event() - rig.device.used_idx) & 0xFFFF > 8
            else:
                assert rig.device.avail_flags() == 1
