"""Whether the pollers do their work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon

HEARTBEAT_S = 5.0  # a poller comes round each second even when it sleeps


def stuck_poller(daemon: Daemon, limit_s: float = HEARTBEAT_S) -> str:
    """Which poller has not come round for so long; "" for none. Those that have not been started don't count."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for poller in daemon.pollers:
        heartbeat = poller.stats().heartbeat_ns
        age_s = (now - heartbeat) / 1e9
        if heartbeat and age_s > limit_s:
            return f"{poller.name} has not come round for {age_s:.1f} s"
    return ""
