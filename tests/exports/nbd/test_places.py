"""Whose place a client gets that wants to negotiate."""

from __future__ import annotations

import pytest

from virtiod.core.peers import Peer
from virtiod.exports.nbd.places import LONG_S, SILENT_S, Place, Places


def peer(text: str) -> Peer:
    """Of "user process"."""
    origin, _, part = text.partition(" ")
    return Peer(text, origin, part)


@pytest.mark.parametrize(
    ("there", "comes", "victim"),
    [
        ([], "a 1", None),
        (["a 1", "a 1"], "b 1", None),  # two places are free
        (["a 1", "a 1"], "a 1", 0),  # its share is used up
        (["a 1", "a 1"], "a 2", None),
        (["b 1", "a 1", "a 2", "a 3"], "c 1", 1),  # of the user who has most, though none of its processes has
        (["a 1", "b 1", "b 2", "b 2"], "a 1", 2),  # of its process that has most
        (["a 1", "b 1", "b 2", "b 2"], "b 2", 2),
        (["a 1", "b 1", "c 1", "d 1"], "d 1", 0),
    ],
)
def test_the_one_that_has_most_makes_room(there: list[str], comes: str, victim: int | None) -> None:
    places = Places(total=4, share=2)
    taken = [places.take(peer(name), float(now), lambda: None) for now, name in enumerate(there)]
    assert places.in_the_way(peer(comes)) is (None if victim is None else taken[victim])


def test_the_one_that_was_silent_for_longest_goes_first() -> None:
    places = Places(total=4, share=2)
    first, second = (places.take(peer("a 1"), now, lambda: None) for now in (1.0, 1.1))
    first.heard = 1.5
    assert places.in_the_way(peer("a 1")) is second
    places.leave(second)
    places.leave(second)
    assert places.in_the_way(peer("a 1")) is None
    assert len(places) == 1
    assert isinstance(first, Place)


def test_one_that_has_its_place_for_long_goes_whatever_it_sends() -> None:
    places = Places(total=4, share=2)
    first = places.take(peer("a 1"), 1.0, lambda: None)
    first.heard = 1.9
    assert first.yields_at == 1.0 + LONG_S
    second = places.take(peer("a 1"), 1.9, lambda: None)
    assert second.yields_at == 1.9 + SILENT_S
    assert places.in_the_way(peer("a 1")) is first
