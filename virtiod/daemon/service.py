"""The daemon as a service: tells the service manager when it is ready, what it does, and that it is alive.

Alive means that the control loop runs and that each poller completes rounds: a task of the control loop feeds the
watchdog, and only if no poller is stuck.
"""

from __future__ import annotations

import asyncio
import logging

from virtiod.daemon.daemon import Daemon
from virtiod.daemon.health import HEARTBEAT_S
from virtiod.daemon.systemd import Notifier

PERIOD_S = 1.0
START_STEP_S = 30.0  # each step of a start (an attach at most) has a shorter deadline
STOP_MARGIN_S = 5.0  # beyond --shutdown-timeout
MIN_LIMIT_S = 2.0  # a poller that sleeps completes a round each second

logger = logging.getLogger(__name__)


class Service:
    """Tells the service manager. run() is a task from before the daemon's start until after its stop."""

    def __init__(self, daemon: Daemon, notifier: Notifier) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._ready = False
        self._stuck = ""
        watchdog_s = notifier.watchdog_s
        self._period_s = min(PERIOD_S, watchdog_s / 4) if watchdog_s else PERIOD_S
        self._limit_s = max(MIN_LIMIT_S, min(HEARTBEAT_S, watchdog_s / 2)) if watchdog_s else HEARTBEAT_S

    async def run(self) -> None:
        """Tells the state at intervals, until it is cancelled."""
        while True:
            self.tell()
            await asyncio.sleep(self._period_s)

    def tell(self) -> None:
        """Tells the present state."""
        daemon, notifier = self._daemon, self._notifier
        notifier.status(daemon.health.status())
        if daemon.stopping:
            notifier.watchdog()
            return
        if not daemon.running:
            notifier.extend(START_STEP_S)
        elif not self._ready:
            self._ready = True
            notifier.ready()
        stuck = daemon.health.stuck_poller(self._limit_s)
        if not stuck:
            notifier.watchdog()
        elif not self._stuck:
            logger.error(
                "%s%s",
                stuck,
                ": the watchdog is fed no more, systemd will restart virtiod" if notifier.watchdog_s else "",
            )
        self._stuck = stuck

    def stopping(self) -> None:
        """Tells that the daemon is stopping."""
        self._notifier.stopping()
        self._notifier.extend(self._daemon.options.shutdown_timeout_s + STOP_MARGIN_S)

    async def reload(self) -> None:
        """Reads the configuration again. Errors are logged, and part of the status."""
        if not self._ready:
            logger.warning("not reloaded: the start has not ended")
            return
        self._notifier.reloading()
        await self._daemon.configuration.reload()
        self.tell()
        self._notifier.ready()
