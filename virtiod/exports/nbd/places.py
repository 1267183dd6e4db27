"""Who may negotiate: a bounded number of clients, of which each peer has a bounded share.

A client that needs a place while none is free gets that of one who has been silent for a while, or has had it for long:
among those of the peer that has most, the one that is the first to. So clients that just sit there, or say as little as
they can, cost others nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from virtiod.core.peers import Peer

SILENT_S = 0.25  # without a byte, after which a client that negotiates makes room for another
LONG_S = 1.0  # after which it does whatever it sends: a negotiation takes milliseconds


@dataclass(eq=False)
class Place:
    """peer: whose it is. came: when the client did. heard: when it came, or sent something. drop: ends its
    negotiation."""

    peer: Peer
    came: float
    heard: float
    drop: Callable[[], object]

    @property
    def yields_at(self) -> float:
        """When another client may have it."""
        return min(self.heard + SILENT_S, self.came + LONG_S)

    def is_of(self, peer: Peer) -> bool:
        """Whether it is of the same process."""
        return _process(self.peer) == _process(peer)


class Places:
    """total: of all. share: of the connections that have origin and part in common. Pure: who calls knows the time."""

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = total, share
        self._taken: list[Place] = []

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, peer: Peer, now: float, drop: Callable[[], object]) -> Place:
        """in_the_way() must have said None."""
        place = Place(peer, now, now, drop)
        self._taken.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Idempotent."""
        if place in self._taken:
            self._taken.remove(place)

    def in_the_way(self, peer: Peer) -> Place | None:
        """The place that has to be free before this peer can have one; None: there is one."""
        own = [place for place in self._taken if place.is_of(peer)]
        if len(own) >= self._share:
            return _first_to_yield(own)
        if len(self._taken) < self._total:
            return None
        greedy = _of_most(self._taken, lambda place: place.peer.origin)
        return _first_to_yield(_of_most(greedy, lambda place: _process(place.peer)))


def _process(peer: Peer) -> tuple[str, str]:
    return peer.origin, peer.part


def _of_most(places: list[Place], key: Callable[[Place], Hashable]) -> list[Place]:
    """Those that have the key that most have."""
    ((most, _),) = Counter(map(key, places)).most_common(1)
    return [place for place in places if key(place) == most]


def _first_to_yield(places: Iterable[Place]) -> Place:
    return min(places, key=lambda place: place.yields_at)
