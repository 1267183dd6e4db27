"""Whether the daemon does its work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from virtiod.daemon.health import stuck_poller

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon


def ailment(daemon: Daemon) -> str:
    """What is wrong; "" for nothing."""
    if daemon.stop_deadline < math.inf:
        return "stopping"
    if not daemon.initialised.is_set():
        return "not initialised"
    return stuck_poller(daemon)
