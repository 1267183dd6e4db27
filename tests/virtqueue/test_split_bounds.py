"""What can be proved of the split ring's arithmetic and bookkeeping, by trying everything where the sizes are small.

A bounded model checker of C (CBMC) would do it for all sizes, but Debian 12 has none, and the generated code is full of
Python's API. So the compiled functions are called through their C interface: with every value where there are few. Of
need_event, which has 2^48, every value of a smaller width is tried by the same formula, and the compiled function at
the edges of 16 bits and, by hypothesis, between them.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.split_ring import INDIRECT, MASK, NEXT, WRITE, SplitRing

BOTH = [True, False]
every_mode = pytest.mark.parametrize("indirect", BOTH)


@contextmanager
def ring(size: int, indirect: bool = True, event_idx: bool = True, at: int = 0) -> Iterator[SplitRing]:
    made = SplitRing(size, indirect, event_idx, at)
    yield made
    made.close()


def segs(n: int, first: int = 0) -> list[tuple[int, int]]:
    """n segments that can be told from each other."""
    return [(0x10000 * (first + 1) + i, 512 + i) for i in range(n)]


# ---- need_event (§2.7.7.2): is the event among the indexes from old up to, not including, new?


def need_event(event: int, new: int, old: int, bits: int) -> bool:
    mask = (1 << bits) - 1
    return (new - event - 1) & mask < (new - old) & mask


def test_need_event_means_that_the_event_was_passed() -> None:
    bits = 6
    for event, new, old in itertools.product(range(1 << bits), repeat=3):
        passed = (event - old) % (1 << bits) < (new - old) % (1 << bits)
        assert need_event(event, new, old, bits) == passed


def kicks(made: SplitRing, event: int, new: int, old: int) -> bool:
    """What the compiled driver decides."""
    made.q.avail_idx, made.q.published = new, old
    made.q.last_used = made.q.event_at  # no reason to move used_event
    made.want_kick_at(event)
    return made.publish()


EDGES = sorted({(edge + near) & MASK for edge in (0, 0x4000, 0x7FFF, 0x8000, 0xC000) for near in range(-2, 3)})


def test_the_compiled_need_event_agrees_at_the_edges_of_16_bits() -> None:
    with ring(4) as made:
        for event, new, old in itertools.product(EDGES, repeat=3):
            assert kicks(made, event, new, old) == need_event(event, new, old, 16), (event, new, old)


@given(st.integers(0, MASK), st.integers(0, MASK), st.integers(-3, MASK))
def test_the_compiled_need_event_agrees(event: int, old: int, ahead: int) -> None:
    with ring(4) as made:
        new = (old + ahead) & MASK
        assert kicks(made, event, new, old) == need_event(event, new, old, 16)


# ---- indexes that wrap


@every_mode
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_entries_and_indexes_go_on_across_the_wrap(size: int, indirect: bool) -> None:
    for at, depth in itertools.product(range(65530, 65536), range(1, size + 1)):
        with ring(size, indirect, at=at) as made:
            index = at
            while (index - 5) & MASK >= 0x8000:  # up to 5, where all has wrapped
                for slot in range(depth):
                    assert made.add(slot, segs(1), 1) == 0
                made.want_kick_at((index + depth - 1) & MASK)
                assert made.publish()
                assert made.avail_idx() == (index + depth) & MASK
                assert not made.arm()
                for n in range(depth):
                    made.used(made.avail_entry(index + n))
                made.publish_used(made.device_used)
                assert made.arm()
                assert [made.pop() for _ in range(depth)] == list(range(depth))
                assert made.pop() == -errno.EAGAIN
                index = (index + depth) & MASK


@every_mode
def test_of_all_used_indexes_only_those_up_to_what_is_in_flight_are_taken(indirect: bool) -> None:
    at = 65533
    for in_flight in range(4):
        with ring(4, indirect, at=at) as made:
            for slot in range(in_flight):
                made.add(slot, segs(1), 1)
            made.publish()
            for n in range(in_flight):
                made.used(made.avail_entry(at + n))
            before = made.save()
            for ahead in range(1 << 16):
                made.publish_used(at + ahead)
                expected = -errno.EAGAIN if ahead == 0 else 0 if ahead <= in_flight else -errno.EPROTO
                assert made.pop() == expected, (in_flight, ahead)
                assert made.q.broken == (expected == -errno.EPROTO)
                made.q.broken = 0
                if not expected:
                    made.restore(before)


# ---- used entries: only ids in flight are taken


def in_flight_sets(size: int, indirect: bool) -> Iterator[tuple[SplitRing, dict[int, int]]]:
    """A ring with each set of slots in flight, in order of submission, and the slots by the heads of their chains."""
    lengths = [1] if indirect else [1, 2]
    for n in range(size + 1):
        for slots in itertools.permutations(range(size), n):
            for chain in lengths:
                if not indirect and n * chain > size:
                    continue
                with ring(size, indirect, at=65534) as made:
                    for slot in slots:
                        assert made.add(slot, segs(chain), 1) == 0
                    made.publish()
                    yield made, {made.avail_entry(65534 + i): slot for i, slot in enumerate(slots)}


@every_mode
def test_of_all_ids_only_those_in_flight_are_taken_and_each_once(indirect: bool) -> None:
    size = 4
    ids = [*range(2 * size), 0xFFFF, *(i | 0x10000 for i in range(size)), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    tried = 0
    for made, slots in in_flight_sets(size, indirect):
        if not slots:
            continue
        before = made.save()
        for id_, written in itertools.product(ids, (0, 1, 0xFFFFFFFF)):
            made.used(id_, written)
            made.used(id_, written)  # the second time it is in flight no more
            made.publish_used(65534 + min(2, len(slots)))
            assert made.pop() == slots.get(id_, -errno.EPROTO), (id_, slots)
            if id_ in slots and len(slots) == 1:
                assert made.pop() == -errno.EAGAIN
            else:
                assert made.pop() == -errno.EPROTO
                assert made.pop() == -errno.EPROTO, "broken for good"
                assert made.q.broken
            assert made.q.in_flight == len(slots) - (id_ in slots)
            made.restore(before)
            tried += 1
    assert tried > 1000


# ---- chains


def chain_at(made: SplitRing, head: int) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The descriptors of a chain, and what they say: (address, length, whether the device writes)."""
    numbers, pieces = [head], []
    addr, length, flags, after = made.desc(head)
    table = addr if flags & INDIRECT else None
    if table is not None:
        assert flags == INDIRECT
        assert length % 16 == 0
        addr, length, flags, after = made.desc(0, table)
    while True:
        pieces.append((addr, length, flags & WRITE))
        if not flags & NEXT:
            return numbers, pieces
        if table is None:
            numbers.append(after)
        assert len(pieces) <= made.size
        addr, length, flags, after = made.desc(after, table)


Flight = tuple[tuple[int, int, int, int], ...]  # slot, head, segments, of them readable
State = tuple[tuple[bytes, ...], Flight]


def check(made: SplitRing, flight: Flight, indirect: bool) -> None:
    """What the device sees of each chain is what was asked for, and no descriptor is in two chains, or free as well."""
    taken: list[int] = []
    for slot, head, n, n_out in flight:
        numbers, pieces = chain_at(made, head)
        assert pieces == [(a, b, 0 if i < n_out else WRITE) for i, (a, b) in enumerate(segs(n, slot))]
        taken += numbers
    assert len(set(taken)) == len(taken)
    assert made.q.in_flight == len(flight)
    lengths = {head: 1 if indirect else n for _, head, n, _ in flight}
    assert made.chain_lengths() == [lengths.get(i, 0) for i in range(made.size)]
    if not indirect:
        assert sorted(taken + made.free_list()) == list(range(made.size))


def add(made: SplitRing, flight: Flight, n: int, n_out: int, indirect: bool) -> Flight:
    """Add a request of the first free slot, if the ring takes it; it must when there is room, and only then."""
    slot = min(set(range(made.size)) - {slot for slot, *_ in flight})
    room = made.size if indirect else made.size - sum(n for _, _, n, _ in flight)
    ret = made.add(slot, segs(n, slot), n_out)
    assert ret == (0 if n <= room else -errno.ENOSPC)
    if ret:
        return flight
    made.publish()
    return (*flight, (slot, made.avail_entry(made.avail_idx() - 1), n, n_out))


def successors(made: SplitRing, state: State, indirect: bool) -> Iterator[State]:
    """After a request of each length was added, or any of those in flight was answered."""
    saved, flight = state
    if len(flight) < made.size:
        for n in range(1, made.size + 1):
            made.restore(saved)
            after = add(made, flight, n, (n + 1) // 2, indirect)
            check(made, after, indirect)
            yield made.save(), after
    for answered in flight:
        made.restore(saved)
        made.used(answered[1])
        made.publish_used(made.device_used)
        assert made.pop() == answered[0]
        after = tuple(one for one in flight if one is not answered)
        check(made, after, indirect)
        yield made.save(), after


@every_mode
def test_chains_are_made_and_freed_right_in_every_order(indirect: bool) -> None:
    """All states that requests of 1 to 4 descriptors reach on a ring of 4, whichever is answered next."""
    with ring(4, indirect) as made:
        todo: list[State] = [(made.save(), ())]
        seen = set()
        while todo:
            for after in successors(made, todo.pop(), indirect):
                free = () if indirect else tuple(made.free_list())
                if (free, frozenset(after[1])) not in seen:
                    seen.add((free, frozenset(after[1])))
                    todo.append(after)
        assert len(seen) > 200


@every_mode
def test_a_chain_has_its_readable_part_first(indirect: bool) -> None:
    for n in range(1, 9):
        for n_out in range(n + 1):
            with ring(8, indirect) as made:
                check(made, add(made, (), n, n_out, indirect), indirect)
