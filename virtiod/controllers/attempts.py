"""When to try to reach a device again.

At once; while that fails ever less often. When something has come to where the device is looked for, at once again, and
often for a while: a target binds its socket first, and listens later.
"""

from __future__ import annotations

import asyncio

from virtiod.transports.interface import Arrivals

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # after a failed attempt, the next one, ...
EAGER_S = 0.02  # between attempts when something has come
EAGER_FOR_S = 5.0


class Attempts:
    """Of one controller, at one device. failed: how many have failed already, in a row."""

    def __init__(self, arrivals: Arrivals, failed: int = 0) -> None:
        self._arrivals = arrivals
        self._failed = failed
        self._last = float("-inf")
        self._eager_until = float("-inf")

    async def due(self) -> None:
        """Returns when the next attempt is to be made. The one before has failed."""
        now = asyncio.get_running_loop().time
        if self._failed:
            delay = BACKOFF_S[min(self._failed, len(BACKOFF_S)) - 1]
            if now() < self._eager_until:
                delay = min(delay, EAGER_S)
            if await self._arrivals.wait(delay):
                self._failed, self._eager_until = 0, now() + EAGER_FOR_S
                await asyncio.sleep(max(0.0, self._last + EAGER_S - now()))
        self._failed += 1
        self._last = now()
