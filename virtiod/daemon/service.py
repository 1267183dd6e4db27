"""The daemon as a service: tells the service manager when it is ready, what it does, and that it is alive.

Alive means that the control loop runs and that each poller comes round: the watchdog is fed by a task of the one, and
only if none of the others is stuck.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING

from virtiod.daemon.health import HEARTBEAT_S, stuck_poller
from virtiod.daemon.systemd import Notifier

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon

PERIOD_S = 1.0
START_STEP_S = 30.0  # each step of a start (an attach at most) has a shorter deadline
STOP_MARGIN_S = 5.0  # beyond --shutdown-timeout
MIN_LIMIT_S = 2.0  # a poller that sleeps comes round each second

logger = logging.getLogger(__name__)


class Service:
    """run() as a task beside the daemon, from before its start until after its stop."""

    def __init__(self, daemon: Daemon, notifier: Notifier) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._ready = False
        self._stuck = ""
        watchdog_s = notifier.watchdog_s
        self._period_s = min(PERIOD_S, watchdog_s / 4) if watchdog_s else PERIOD_S
        self._limit_s = max(MIN_LIMIT_S, min(HEARTBEAT_S, watchdog_s / 2)) if watchdog_s else HEARTBEAT_S

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.tell()
            await asyncio.sleep(self._period_s)

    def tell(self) -> None:
        """Tells how it is now."""
        daemon, notifier = self._daemon, self._notifier
        notifier.status(status_of(daemon))
        if daemon.stop_deadline < math.inf:
            notifier.watchdog()
            return
        if not daemon.initialised.is_set():
            notifier.extend(START_STEP_S)
        elif not self._ready:
            self._ready = True
            notifier.ready()
        stuck = stuck_poller(daemon, self._limit_s)
        if not stuck:
            notifier.watchdog()
        elif not self._stuck:
            logger.error("%s%s", stuck, ": the watchdog is no longer fed" if notifier.watchdog_s else "")
        self._stuck = stuck

    def stopping(self) -> None:
        """The end begins."""
        self._notifier.stopping()
        self._notifier.extend(self._daemon.options.shutdown_timeout_s + STOP_MARGIN_S)

    async def reload(self) -> None:
        """Reads the configuration again. What went wrong is logged, and part of the status."""
        if not self._ready:
            logger.warning("not reloaded: the start has not ended")
            return
        self._notifier.reloading()
        await self._daemon.configuration.reload()
        self.tell()
        self._notifier.ready()


def status_of(daemon: Daemon) -> str:
    """One line for people: "2 controllers up, 1 reconnecting; 3 bdevs, 1 export"."""
    if daemon.stop_deadline < math.inf:
        return "stopping"
    if daemon.controllers is None or daemon.bdevs is None:
        return "starting"
    states = Counter(str(controller.state) for controller in daemon.controllers.list())
    up = states.pop("up", 0)
    parts = ", ".join([_count(up, "controller") + " up", *(f"{number} {state}" for state, number in states.items())])
    bdevs, exports = len(daemon.bdevs.list()), len(daemon.exports.get_exports())
    text = f"{parts}; {_count(bdevs, 'bdev')}, {_count(exports, 'export')}"
    configuration = daemon.configuration
    if configuration.waiting:
        text += f"; {_count(configuration.waiting, 'call')} waiting for a bdev"
    if configuration.failed:
        text += f"; {len(configuration.failed)} of the configuration failed: {configuration.failed[0]}"
    return text if daemon.initialised.is_set() else f"starting: {text}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
