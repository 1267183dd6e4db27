"""The system under test: virtiod's own, in this process, with an NBD listener.

Its pollers are threads that need no GIL, and its clients use sockets, as those of the daemon do. Each run has one of
its own, and everything that it lent must be back at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from tests.crash.client import Client
from tests.crash.plan import Setup
from virtiod.bdev import Bdev
from virtiod.controllers.blk.controller import BlkController
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.system import System
from virtiod.virtio.features import Feature

DISK, OTHER = "disk", "other"  # exports
CONTROLLER, NULL = "V0", "Null0"
BACK_S, STEP_S = 5.0, 0.002  # for what was lent to come back, and how often that is looked at
POLL_US = 50  # of an idle poller, before it sleeps: most of its CPU time


class Rig:
    """start(), then attach(); end() looks at what is left; stop() in any case."""

    def __init__(self, run_dir: Path, setup: Setup, io_timeout_s: float) -> None:
        self.socket = run_dir / "nbd"
        self.setup = setup
        self.system = System([-1] * setup.pollers, 64, poll_us=POLL_US, io_timeout_s=io_timeout_s)
        self.exports = self.system.exports.of(NbdExports)
        self._used = self.system.memory.used
        self._undo = ExitStack()

    async def start(self) -> None:
        self._undo.enter_context(mock.patch.object(BlkController, "wanted", self._features()))
        self.system.start()
        await self.exports.listen(ListenAddress.parse(f"unix:{self.socket}"))
        self.system.nulls.create(NULL, 2048)
        await self.exports.create(NULL, OTHER)
        self._sources = self._all_sources()

    def _features(self) -> Sequence[int]:
        """Those that virtiod wants of the device."""
        unwanted = set()
        if not self.setup.indirect:
            unwanted.add(Feature.INDIRECT_DESC)
        if not self.setup.event_idx:
            unwanted.add(Feature.EVENT_IDX)
        return [feature for feature in BlkController.wanted if feature not in unwanted]

    async def attach(self, socket: Path) -> None:
        """The target's disk becomes the export DISK."""
        setup = self.setup
        request = AttachRequest(CONTROLLER, "user", str(socket), "blk", setup.queues, setup.ring)
        await self.system.controllers.attach(request)
        await self.exports.create(CONTROLLER, DISK)

    async def connect(self, export: str) -> Client:
        return await Client.connect(self.socket, export)

    async def end(self) -> list[str]:
        """Detaches the target, whose clients have left; what is not as it was at the start, a line each."""
        bdev = self.system.bdevs.get(CONTROLLER)
        await self._settled(lambda: not any(export.connections for export in self.exports.list()))
        clients = [(export.connections, export.name) for export in self.exports.list() if export.connections]
        left = [f"{count} clients of export {name}" for count, name in clients]
        left += self._io_left(bdev)
        await self.exports.delete(DISK)
        await self.system.controllers.detach(CONTROLLER)
        await self._settled(lambda: not self._lent())
        return left + self._lent()

    async def stop(self) -> None:
        """Takes everything down, whatever state it is in."""
        await self.system.stop()
        self._undo.close()

    @staticmethod
    async def _settled(ready: Callable[[], bool]) -> None:
        """Returns when it is, or a moment later."""
        for _ in range(int(BACK_S / STEP_S)):
            if ready():
                return
            await asyncio.sleep(STEP_S)

    def _io_left(self, bdev: Bdev) -> list[str]:
        """I/O that is nobody's any more. Clients have left, and nothing failed."""
        left = []
        for op, count in bdev.stats().ops.items():
            if count.submitted != count.completed:
                left.append(f"{op}: {count.submitted} submitted, {count.completed} completed, {count.failed} failed")
        for queue in self.system.controllers.get(CONTROLLER).queues:
            if queue.in_flight or queue.submitted != queue.completed:
                left.append(f"queue {queue.index}: {queue.submitted} submitted, {queue.completed} completed")
        return left

    def _all_sources(self) -> list[str]:
        return [source.name for poller in self.system.pollers for source in poller.sources()]

    def _lent(self) -> list[str]:
        """What the pollers and DMA memory lend, and to whom."""
        left = []
        for poller, buffers in zip(self.system.pollers, self.system.buffers, strict=True):
            pool = buffers.stats()
            for size in ("small", "large"):
                if pool[size] != pool[f"{size}_free"]:
                    left.append(f"{poller.name}: {pool[size]} {size} buffers, {pool[f'{size}_free']} free")
            if poller.stats().in_flight:
                left.append(f"{poller.name}: {poller.stats().in_flight} I/Os in flight")
        if self._all_sources() != self._sources:
            left.append(f"pollers poll {self._all_sources()}, they polled {self._sources}")
        if self.system.memory.used != self._used:
            left.append(f"DMA memory: {self.system.memory.used} bytes used, {self._used} at the start")
        return left
