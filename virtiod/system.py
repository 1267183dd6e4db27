"""What moves data, put together: memory, pollers, bdevs, controllers, the load generator.

The daemon, `virtiod perf` and `virtiod demo` each run one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from virtiod.bdev import BdevRegistry
from virtiod.bdev.null import NullBdevs
from virtiod.controllers import ControllerManager
from virtiod.controllers.controller import Context
from virtiod.core.memory import MIB, DmaMemory
from virtiod.load.runner import Perf
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Control, Poller


class Engine:
    """start() once, then stop(). Event-loop thread only.

    cpus: a poller for each (-1: not pinned). memory_mib: DMA memory to begin with. io_timeout_s 0: none.
    allow_unbind: PCI devices may be taken from the kernel's driver.
    """

    def __init__(
        self,
        cpus: Sequence[int],
        memory_mib: int = 256,
        poll_mode: str = "adaptive",
        poll_us: int = 200,
        io_timeout_s: float = 30.0,
        allow_unbind: bool = False,
    ) -> None:
        self.memory = DmaMemory(memory_mib * MIB)
        self.control = Control()
        self.pollers = [Poller(self.control, i, cpu, poll_mode, poll_us) for i, cpu in enumerate(cpus)]
        self.buffers = [PollerBuffers(self.memory) for _ in self.pollers]
        self.bdevs = BdevRegistry()
        self.nulls = NullBdevs(self.pollers, self.bdevs)
        self.controllers = ControllerManager(Context(self.memory, self.pollers, self.bdevs, io_timeout_s, allow_unbind))
        self.perf = Perf(self.memory, self.pollers, self.bdevs, self.controllers)

    def start(self) -> None:
        """Pollers run, controllers can be attached."""
        self.control.attach(asyncio.get_running_loop())
        for poller in self.pollers:
            poller.start()
        self.controllers.start()

    async def stop(self) -> None:
        """End loads, detach controllers, end pollers, give memory back. Each step has its own deadline."""
        await self.perf.stop()
        await self.controllers.stop()
        for poller in self.pollers:
            poller.stop()
        self.control.detach()
        for pool in self.buffers:
            pool.close()
        self.memory.close()
