"""Who may negotiate: a bounded number of clients, of which each peer has a bounded share.

A client that needs a place while none is free gets that of one who has been silent for a while: among those of the peer
that has most, the one that has been silent for longest. So clients that just sit there cost others nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from virtiod.core.peers import Peer


@dataclass(eq=False)
class Place:
    """peer: whose it is. heard: when the client came, or sent something. drop: ends its negotiation."""

    peer: Peer
    heard: float
    drop: Callable[[], object]


class Places:
    """total: of all. share: of the connections that have origin and part in common. Pure: who calls knows the time."""

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = total, share
        self._taken: list[Place] = []

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, peer: Peer, now: float, drop: Callable[[], object]) -> Place:
        """in_the_way() must have said None."""
        place = Place(peer, now, drop)
        self._taken.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Idempotent."""
        if place in self._taken:
            self._taken.remove(place)

    def in_the_way(self, peer: Peer) -> Place | None:
        """The place that has to be free before this peer can have one; None: there is one."""
        own = [place for place in self._taken if _process(place) == (peer.origin, peer.part)]
        if len(own) >= self._share:
            return _most_silent(own)
        if len(self._taken) < self._total:
            return None
        greedy = _of_most(self._taken, lambda place: place.peer.origin)
        return _most_silent(_of_most(greedy, _process))


def _process(place: Place) -> tuple[str, str]:
    return place.peer.origin, place.peer.part


def _of_most(places: list[Place], key: Callable[[Place], Hashable]) -> list[Place]:
    """Those that have the key that most have."""
    ((most, _),) = Counter(map(key, places)).most_common(1)
    return [place for place in places if key(place) == most]


def _most_silent(places: Iterable[Place]) -> Place:
    return min(places, key=lambda place: place.heard)
