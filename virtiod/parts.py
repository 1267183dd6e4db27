"""What a daemon is made of, and in what order it comes up: the one place where the layers are put together.

Each part pushes its end on the stack as soon as it exists, so that a start that fails and an orderly stop go
the same way back.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from virtiod.bdev.registry import BdevRegistry
from virtiod.dataplane.poller import Control, Poller
from virtiod.memory import MIB, DmaMemory

if TYPE_CHECKING:
    from virtiod.daemon import Daemon


class Parts:
    """The real parts. Tests give the daemon others."""

    async def build(self, daemon: Daemon, stack: AsyncExitStack) -> None:
        """Before RPC can be called: sets daemon.pollers, bdevs, controllers, exports and perf. Nothing listens yet."""
        options = daemon.options
        daemon.memory = DmaMemory(options.memory_mib * MIB)
        stack.callback(daemon.memory.close)
        control = Control()
        control.attach(asyncio.get_running_loop())
        stack.callback(control.detach)
        daemon.pollers = [
            Poller(control, index, cpu, options.poll_mode, options.poll_us) for index, cpu in enumerate(options.cpus)
        ]
        daemon.bdevs = BdevRegistry()

    async def open(self, daemon: Daemon, stack: AsyncExitStack) -> None:
        """When initialisation begins: pollers run, exports and HTTP listen."""
        for poller in daemon.pollers:
            poller.start()
            stack.callback(poller.stop)
