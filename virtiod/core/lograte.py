"""Logs what may happen very often: each thing at its level once a second at most, for debugging in between."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

INTERVAL_S = 1.0
MAX_KEYS = 4096


class LogRate:
    """Of many different things the one that was said least recently is forgotten, and said again if it comes."""

    def __init__(
        self, log: logging.Logger, interval_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._interval_s = INTERVAL_S if interval_s is None else interval_s
        self._clock = clock
        self._said: OrderedDict[Hashable, float] = OrderedDict()  # when, in that order

    def say(
        self, level: int, key: Hashable, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None:
        """Logs it; key tells it from other things. exc_info: an exception whose traceback belongs to it."""
        now = self._clock()
        if now - self._said.get(key, float("-inf")) < self._interval_s:
            level = logging.DEBUG
        else:
            self._said[key] = now
            self._said.move_to_end(key)
            if len(self._said) > MAX_KEYS:
                self._said.popitem(last=False)
        self._log.log(level, message, *args, exc_info=exc_info)
