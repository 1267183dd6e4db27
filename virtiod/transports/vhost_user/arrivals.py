"""Tells when a back-end's socket may be there again."""

from __future__ import annotations

import logging

from virtiod.core.inotify import PathWatch
from virtiod.core.lograte import LogRate
from virtiod.transports.interface import Arrivals

log = logging.getLogger(__name__)

_said = LogRate(log, interval_s=float("inf"))


class SocketArrivals(Arrivals):
    """Of the socket at a path. Where there can be no watch it lets time pass, as if nothing came."""

    def __init__(self, path: str) -> None:
        self._watch: PathWatch | None = None
        try:
            self._watch = PathWatch(path)
        except OSError as error:
            _said.say(
                logging.WARNING,
                error.errno,
                "watch for %s: %s (see fs.inotify in sysctl): sockets that come are only looked for from time to time",
                *(path, error.strerror),
            )

    async def wait(self, seconds: float) -> bool:
        return await (self._watch.wait(seconds) if self._watch is not None else super().wait(seconds))

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
