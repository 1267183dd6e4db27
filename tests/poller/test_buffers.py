"""A poller's buffers: all that was asked for or nothing, and each in one pair of hands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rig import in_loop
from virtiod.bdev.channel import Holdings
from virtiod.bdev.probe import give_buffers, may_take, quarantine_buffers, run_rounds, take_buffers
from virtiod.core.memory import MIB, DmaMemory
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Control, Poller

SMALL, LARGE = 4096, 65536


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    memory = DmaMemory(16 * MIB)
    yield memory
    memory.close()


def lengths(taken: list[tuple[int, int]]) -> list[int]:
    return [n for _, n in taken]


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (512, [512]),
        (4096, [4096]),
        (4097, [4097]),
        (65536, [65536]),
        (65537, [65536, 1]),
        (65536 + 4096, [65536, 4096]),
        (65536 + 4097, [65536, 4097]),
        (3 * 65536, [65536] * 3),
    ],
)
def test_buffers_hold_the_length_in_few_pieces(memory: DmaMemory, length: int, pieces: list[int]) -> None:
    pool = PollerBuffers(memory, small=2, large=4)
    taken = take_buffers(pool, length, 8)
    assert lengths(taken) == pieces
    give_buffers(pool, taken)
    assert (pool.stats()["small_free"], pool.stats()["large_free"]) == (2, 4)


def test_too_few_buffers_give_none_and_are_counted(memory: DmaMemory) -> None:
    pool = PollerBuffers(memory, small=1, large=2)
    assert take_buffers(pool, 3 * LARGE, 8) == []
    assert take_buffers(pool, 2 * LARGE, 1) == []
    stats = pool.stats()
    assert (stats["small_free"], stats["large_free"], stats["exhausted"]) == (1, 2, 2)
    assert lengths(take_buffers(pool, 2 * LARGE, 2)) == [LARGE, LARGE]
    assert lengths(take_buffers(pool, 1, 1)) == [1]
    stats = pool.stats()
    assert (stats["taken_small"], stats["taken_large"], stats["exhausted"]) == (1, 2, 2)


def test_a_large_buffer_stands_in_for_a_small_one(memory: DmaMemory) -> None:
    pool = PollerBuffers(memory, small=1, large=1)
    assert lengths(take_buffers(pool, 100, 8)) == [100]
    assert lengths(take_buffers(pool, 100, 8)) == [100]
    assert pool.stats()["large_free"] == 0
    assert take_buffers(pool, 100, 8) == []


def test_its_memory_goes_back(memory: DmaMemory) -> None:
    before = memory.used
    pool = PollerBuffers(memory)
    assert memory.used > before
    pool.close()
    pool.close()
    assert memory.used == before


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300_000), st.integers(1, 8)), max_size=60))
def test_no_buffer_is_given_out_twice(steps: list[tuple[bool, int, int]]) -> None:
    memory = DmaMemory(4 * MIB)
    pool = PollerBuffers(memory, small=5, large=7)
    start = min(r.address for r in memory.regions)
    held: list[list[tuple[int, int]]] = []
    for give, length, at_most in steps:
        if give and held:
            give_buffers(pool, held.pop(length % len(held)))
            continue
        taken = take_buffers(pool, length, at_most)
        if taken:
            assert sum(lengths(taken)) == length
            assert len(taken) <= at_most
            held.append(taken)
        addresses = [a for t in held for a, _ in t]
        assert len(addresses) == len(set(addresses))
        assert all(start <= a < start + memory.size for a in addresses)
        stats = pool.stats()
        assert stats["small_free"] + stats["large_free"] + len(addresses) == 12
    memory.close()


# ---- quarantine


async def in_quarantine(pool: PollerBuffers, poller: Poller, epoch: int) -> int:
    """Release a session's buffers; how many there were."""
    released = pool.release(poller, epoch)
    run_rounds(poller)
    poller.control.drain()
    return await released


@in_loop
async def test_buffers_in_quarantine_come_back_with_the_end_of_their_session_only() -> None:
    memory = DmaMemory(16 * MIB)
    pool, poller, holdings = PollerBuffers(memory, small=2, large=4), Poller(Control(), 0, -1), Holdings(1)
    quarantine_buffers(pool, take_buffers(pool, LARGE + SMALL, 8), 7, holdings)
    quarantine_buffers(pool, take_buffers(pool, 2 * LARGE, 8), 9, holdings)
    stats = pool.stats()
    assert (stats["small_free"], stats["large_free"]) == (1, 1)
    assert (stats["quarantined_small"], stats["quarantined_large"]) == (1, 3)
    assert holdings.quarantined() == (SMALL, 3 * LARGE)
    assert await in_quarantine(pool, poller, 8) == 0
    assert await in_quarantine(pool, poller, 7) == 2
    assert holdings.quarantined() == (0, 2 * LARGE)
    assert await in_quarantine(pool, poller, 9) == 2
    stats = pool.stats()
    assert (stats["small_free"], stats["large_free"]) == (2, 4)
    assert (stats["quarantined_small"], stats["quarantined_large"]) == (0, 0)
    assert holdings.quarantined() == (0, 0)
    pool.close()
    memory.close()


def test_however_many_controllers_hold_what_they_can_the_next_gets_some(memory: DmaMemory) -> None:
    pool = PollerBuffers(memory, small=0, large=64)
    held = []
    for _ in range(3):
        holdings = Holdings(1)
        mine = 0
        while may_take(pool, LARGE, holdings):
            quarantine_buffers(pool, take_buffers(pool, LARGE, 1), 1, holdings)
            mine += 1
        held.append(mine)
    assert held == [32, 16, 8]
    assert may_take(pool, 4 * LARGE, Holdings(1))


def test_the_free_buffers_of_one_size_give_no_claim_to_the_other(memory: DmaMemory) -> None:
    pool, holdings = PollerBuffers(memory, small=1024, large=8), Holdings(1)
    while may_take(pool, LARGE, holdings):
        quarantine_buffers(pool, take_buffers(pool, LARGE, 1), 1, holdings)
    assert (pool.stats()["quarantined_large"], pool.stats()["small_free"]) == (4, 1024)
    assert may_take(pool, SMALL, holdings)
    assert not may_take(pool, LARGE + SMALL, holdings)


def test_one_that_holds_nothing_may_take_all(memory: DmaMemory) -> None:
    pool = PollerBuffers(memory, small=0, large=4)
    assert may_take(pool, 4 * LARGE, Holdings(1))
