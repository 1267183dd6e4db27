"""Whether the daemon does its work."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtiod.daemon import Daemon

HEARTBEAT_S = 5.0  # a poller comes round each second even when it sleeps


def ailment(daemon: Daemon) -> str:
    """What is wrong; "" for nothing."""
    if daemon.stop_deadline < math.inf:
        return "stopping"
    if not daemon.initialised.is_set():
        return "not initialised"
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for poller in daemon.pollers:
        age_s = (now - poller.stats().heartbeat_ns) / 1e9
        if age_s > HEARTBEAT_S:
            return f"{poller.name} has not come round for {age_s:.1f} s"
    return ""
