"""A system with null bdevs, to be loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.channel import BdevChannels
from virtiod.bdev.null_io import connect_null
from virtiod.core.memory import MIB
from virtiod.system import System


@asynccontextmanager
async def engine(*names: str, pollers: int = 1, size: int = 64 * MIB, **info: object) -> AsyncIterator[System]:
    """A system with null bdevs of these names, without I/O at its end."""
    engine = System([-1] * pollers, memory_mib=16)
    engine.start()
    for name in names:
        channels = BdevChannels(engine.pollers)
        connect_null(channels)
        engine.bdevs.register(Bdev(name, BdevInfo(512, size // 512, **info), channels))  # type: ignore[arg-type]
    try:
        yield engine
        assert all(b.stats().in_flight == 0 for b in engine.bdevs.list())
    finally:
        await engine.stop()
