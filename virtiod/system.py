"""The inventory: every object of the core, by name and with its type. RPC, HTTP and configurations receive it.

The daemon, `virtiod perf` and the tests each run one. It knows nothing of its users, nor of the process that it
runs in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from virtiod.bdev import BdevRegistry
from virtiod.bdev.failures import FailureLog
from virtiod.bdev.iostat import IoStats
from virtiod.bdev.notifications import Notifications
from virtiod.bdev.null import NullBdevs
from virtiod.bdev.options import BdevOptions
from virtiod.bdev.spdk_histograms import Histograms
from virtiod.controllers import ControllerManager
from virtiod.controllers.device import Context
from virtiod.controllers.hotplug import Hotplug
from virtiod.controllers.quarantine import Quarantine
from virtiod.core.memory import MIB, DmaMemory
from virtiod.core.pages import Huge
from virtiod.core.saved import SavedCall, Saver
from virtiod.core.tasks import cancel, keep_going, spawn
from virtiod.core.ticks import now_ns
from virtiod.exports.interface import ExportContext, Kinds
from virtiod.exports.table import EXPORTS
from virtiod.load.runner import LoadGenerator
from virtiod.poller.buffers import LARGE_BUFFERS, SMALL_BUFFERS, PollerBuffers
from virtiod.poller.poller import Control, Poller
from virtiod.transports.epoch import PEER_GRACE_S

# Of configurations: name -> those that it depends on, in the order of initialisation.
SUBSYSTEMS: dict[str, tuple[str, ...]] = {"bdev": (), **{kind.subsystem: ("bdev",) for kind in EXPORTS}}

KICK_NS = 10_000_000  # that a poller may take to kick a device, before it is interrupted
WATCH_S = 0.5  # how often that is looked at
ALERT_S, ALERT_FOR_S = 0.02, 60.0  # when it has happened


class System:
    """All objects that move data. start() once, then stop(). Event-loop thread only.

    cpus: a poller for each (-1: not pinned). memory_mib: DMA memory to begin with. io_timeout_s 0: none.
    allow_unbind: PCI devices may be taken from the kernel's driver. peer_grace_s: see Context. buffers: small and large
    ones of each poller. huge: which pages the memory may have.
    """

    def __init__(
        self,
        cpus: Sequence[int],
        memory_mib: int = 256,
        poll_mode: str = "adaptive",
        poll_us: int = 200,
        io_timeout_s: float = 30.0,
        allow_unbind: bool = False,
        peer_grace_s: float = PEER_GRACE_S,
        buffers: tuple[int, int] = (SMALL_BUFFERS, LARGE_BUFFERS),
        huge: Huge = "try",
    ) -> None:
        self.started_ns = now_ns()
        self.memory = DmaMemory(memory_mib * MIB, huge=huge)
        self.control = Control()
        self.pollers = [Poller(self.control, i, cpu, poll_mode, poll_us) for i, cpu in enumerate(cpus)]
        self.buffers = [PollerBuffers(self.memory, *buffers) for _ in self.pollers]
        self.bdevs = BdevRegistry()
        self.bdev_options = BdevOptions()
        self.notifications = Notifications()
        self.bdevs.on_event(self.notifications.add)
        self.iostats = IoStats(self.bdevs)
        self.failures = FailureLog(self.bdevs)
        self.histograms = Histograms()
        self.nulls = NullBdevs(self.pollers, self.bdevs)
        pools = list(zip(self.pollers, self.buffers, strict=True))
        self.controllers = ControllerManager(
            Context(
                self.memory,
                self.pollers,
                self.buffers,
                self.bdevs,
                Quarantine(self.memory, pools),
                io_timeout_s,
                allow_unbind,
                peer_grace_s,
            )
        )
        self.hotplug = Hotplug(self.controllers, allow_unbind)
        context = ExportContext(self.bdevs, pools)
        self.exports = Kinds(kind(context) for kind in EXPORTS)
        self.load = LoadGenerator(self.memory, self.pollers, self.bdevs, self.controllers)
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the pollers; controllers can be attached after it."""
        self.control.attach(asyncio.get_running_loop())
        for poller in self.pollers:
            poller.start()
        self.controllers.start()
        self.failures.start()
        watching = "watching pollers"
        self._watching = spawn(keep_going(self._watch, watching), watching)

    async def stop(self) -> None:
        """Ends exports and loads, detaches controllers, ends pollers, gives memory back. Each step has a deadline."""
        await self.exports.stop()
        await self.hotplug.stop()
        await self.load.stop()
        await self.controllers.stop()
        await self.failures.stop()
        await cancel(self._watching)
        for poller in self.pollers:
            poller.stop()
        self.control.detach()
        for pool in self.buffers:
            pool.close()
        self.memory.close()

    async def _watch(self) -> None:
        """Has no poller wait long for a device that fills the eventfd by which it is kicked, and makes it block.

        It looks seldom, and for a while often when there was such a device.
        """
        now = asyncio.get_running_loop().time
        alert_until = 0.0
        while True:
            if [poller for poller in self.pollers if poller.unblock(KICK_NS)]:
                alert_until = now() + ALERT_FOR_S
            await asyncio.sleep(ALERT_S if now() < alert_until else WATCH_S)

    def saved_calls(self, subsystem: str) -> Iterator[SavedCall]:
        """The calls that bring one of SUBSYSTEMS into its present state."""
        savers: list[Saver] = [exports for exports in self.exports if exports.subsystem == subsystem]
        if subsystem == "bdev":
            savers += [self.bdev_options, self.nulls, self.controllers, self.hotplug, self.iostats]
        for saver in savers:
            yield from saver.saved_calls()
        if subsystem == "bdev":
            yield SavedCall("bdev_wait_for_examine")  # with which SPDK's configurations end
