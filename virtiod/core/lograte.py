"""Logs what may happen very often: each thing at its level once a second at most, for debugging in between.

What it says of a state is never outdated for longer: the last change, if it came too soon, is said later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable

from virtiod.core.ticks import now_s

INTERVAL_S = 1.0
MAX_KEYS = 4096


class LogRate:
    """Of many different things the one that was said least recently is forgotten, and said again if it comes."""

    def __init__(
        self, log: logging.Logger, interval_s: float | None = None, clock: Callable[[], float] = now_s
    ) -> None:
        self._log = log
        self._interval_s = INTERVAL_S if interval_s is None else interval_s
        self._clock = clock
        self._said: OrderedDict[Hashable, float] = OrderedDict()  # when, in that order
        self._later: dict[Hashable, asyncio.TimerHandle] = {}  # by what the state is of: it is to be said again

    def say(
        self, level: int, key: Hashable, message: str, *args: object, exc_info: BaseException | None = None
    ) -> bool:
        """Logs it; key tells it from other things. exc_info: an exception whose traceback belongs to it.

        Returns whether it was logged at its level.
        """
        now = self._clock()
        soon = now - self._said.get(key, float("-inf")) < self._interval_s
        if not soon:
            self._said[key] = now
            self._said.move_to_end(key)
            if len(self._said) > MAX_KEYS:
                self._said.popitem(last=False)
        self._log.log(logging.DEBUG if soon else level, message, *args, exc_info=exc_info)
        return not soon

    def say_state(self, level: int, what: Hashable, state: Hashable, message: str, *args: object) -> None:
        """Logs a change of the state of something; one that comes too soon again later, unless another one follows it.

        Event-loop thread only.
        """
        self.forget_state(what)
        if not self.say(level, (what, state), message, *args):
            loop = asyncio.get_running_loop()
            self._later[what] = loop.call_later(
                self._interval_s, lambda: self.say_state(level, what, state, message, *args)
            )

    def forget_state(self, what: Hashable) -> None:
        """What was to be said later of its state is said no more: it has gone, or has another one."""
        later = self._later.pop(what, None)
        if later is not None:
            later.cancel()
