"""The bdev layer: named block devices, whatever serves them.

A Bdev is what exports, the load generator and RPC see. Its I/O runs in the compiled channels (one for each poller);
here are its name, its limits, who has it open, and its end.
"""

from __future__ import annotations

from virtiod.bdev.bdev import Bdev, BdevHandle, BdevInfo
from virtiod.bdev.counters import BdevStats, OpStats
from virtiod.bdev.registry import BdevRegistry

__all__ = ["Bdev", "BdevHandle", "BdevInfo", "BdevRegistry", "BdevStats", "OpStats"]
