"""Block devices, whatever serves them, as exports, the load generator and RPC see them. A poller does I/O to a bdev
through its channel, which checks, counts and times it.
"""

from __future__ import annotations

from virtiod.bdev.bdev import Bdev, BdevHandle, BdevInfo
from virtiod.bdev.registry import BdevRegistry

__all__ = ["Bdev", "BdevHandle", "BdevInfo", "BdevRegistry"]
