"""Logs what a device can repeat at will: at its level the first time, at debug level from then on."""

from __future__ import annotations

import logging
from collections.abc import Hashable

MAX_LOGGED = 4096  # different things


class LogOnce:
    """Logs each message once. who: the controller, in messages."""

    def __init__(self, log: logging.Logger, who: str) -> None:
        self._log = log
        self._who = who
        self._keys: set[Hashable] = set()

    def say(
        self, level: int, key: Hashable, message: str, *args: object, exc_info: BaseException | None = None
    ) -> None:
        """Logs the message; key tells it from others. exc_info: an exception whose traceback belongs to it."""
        again = key in self._keys or len(self._keys) >= MAX_LOGGED
        if not again:
            self._keys.add(key)
        self._log.log(
            logging.DEBUG if again else level, f"controller %s: {message}", self._who, *args, exc_info=exc_info
        )
