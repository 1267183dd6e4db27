"""Token buckets, one for each of a bounded number of keys. Pure: the caller says what time it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MAX_KEYS = 4096


class Buckets:
    """Each key may take `burst` at once, and `rate` a second in the long run.

    Of too many keys the one that was seen least recently is forgotten, and begins anew with a full bucket.
    """

    def __init__(self, rate: float, burst: float, max_keys: int = MAX_KEYS) -> None:
        self._rate, self._burst, self._max_keys = rate, burst, max_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what is left, and when it was

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """Takes amount; 0 when there was enough, else the seconds until there is, and nothing is taken.

        More than the burst can be taken from a full bucket only, which goes below zero.
        """
        wait = self.wait(key, now, amount)
        if wait == 0:
            left, then = self._buckets[key]
            self._buckets[key] = (left - amount, then)
        return wait

    def wait(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """What take() would return."""
        left, then = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - then) * self._rate)
        self._buckets[key] = (left, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return max(0.0, (min(amount, self._burst) - left) / self._rate)
