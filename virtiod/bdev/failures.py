"""Tells the log of I/O that failed: once a second how many of each bdev, and why."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import failed_ios
from virtiod.bdev.registry import BdevRegistry
from virtiod.core.tasks import cancel, keep_going, spawn

log = logging.getLogger(__name__)

PERIOD_S = 1.0
# Name of the status -> how it is told. What a client should not have asked for is no trouble of a disk.
_ERRORS = {"io": "EIO", "nospace": "ENOSPC", "timeout": "ETIMEDOUT", "nodevice": "ENODEV", "other": "other errors"}
_REFUSALS = {"invalid": "EINVAL", "readonly": "EPERM", "unsupported": "EOPNOTSUPP"}


@dataclass
class _Told:
    """Of a bdev, so far."""

    failed: int
    by_status: dict[str, int]


class FailureLog:
    """Of all bdevs in a registry, from start() to stop()."""

    def __init__(self, bdevs: BdevRegistry) -> None:
        self._bdevs = bdevs
        self._told: dict[str, tuple[Bdev, _Told]] = {}
        self._task: asyncio.Task[None] | None = None
        bdevs.on_event(self._event)

    def start(self) -> None:
        self._task = spawn(keep_going(self._run, "telling of failed I/O"), "tell of failed I/O")

    async def stop(self) -> None:
        """Tells the rest. Idempotent."""
        await cancel(self._task)
        self._task = None
        self.look()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def look(self) -> None:
        """Tells what has failed since the last look."""
        for bdev, told in self._told.values():
            self._look_at(bdev, told)

    def _event(self, event: str, name: str) -> None:
        if event == "bdev_register":
            self._told[name] = self._bdevs.get(name), _Told(0, {})
        elif event == "bdev_unregister" and name in self._told:
            self._look_at(*self._told.pop(name))

    def _look_at(self, bdev: Bdev, told: _Told) -> None:
        failed = failed_ios(bdev.channels)
        if failed == told.failed:
            return
        now = bdev.stats().failures
        new = {status: n - told.by_status.get(status, 0) for status, n in now.items()}
        told.failed, told.by_status = failed, now
        for level, names in ((logging.ERROR, _ERRORS), (logging.WARNING, _REFUSALS)):
            for status, name in names.items():
                if count := new.get(status):
                    noun = "I/O" if count == 1 else "I/Os"
                    log.log(level, "%d %s of bdev %s failed: %s", count, noun, bdev.name, name)
