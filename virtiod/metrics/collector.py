"""Reads the daemon's counters at the time of a scrape; nothing is kept between two scrapes.

bdev_get_iostat shows the same counters less a baseline, so that resetting it does not reach them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Iterator

from virtiod import __version__
from virtiod.api.services import Health
from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import READ_AT_ONCE
from virtiod.bdev.histogram import cut
from virtiod.bdev.keeping import KeptChannels
from virtiod.controllers.quarantine import InQuarantine
from virtiod.core.ticks import NS_PER_S, now_ns
from virtiod.metrics import catalogue
from virtiod.metrics.catalogue import IO_BOUNDS_NS, CountedBdev, CountedExport, Process
from virtiod.metrics.families import Page
from virtiod.rpc.protocol.timing import Timings
from virtiod.system import System

IO_CUTS = [cut(bound) for bound in IO_BOUNDS_NS]


class SystemCollector:
    """The daemon's metrics. Event-loop thread only; the pages that it fills may be written by another."""

    def __init__(self, system: System, timings: Timings, health: Health) -> None:
        self._system = system
        self._timings = timings
        self._health = health
        up_ns = now_ns() - system.started_ns
        self._started_s = round(time.time() - up_ns / NS_PER_S, 3)

    async def collect(self) -> Page:
        """Reads all metrics, a few bdevs at a time, so that calls and exports do not wait."""
        page = Page()
        for number, _ in enumerate(self._read(page), 1):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return page

    def _read(self, page: Page) -> Iterator[None]:
        """Fills the page; yields after each bdev."""
        healthy, saved = not self._health.problem(), not self._health.unsaved()
        dropped = self._health.dropped_messages()
        process = Process(__version__, platform.python_version(), self._started_s, healthy, saved, dropped)
        page.add(catalogue.PROCESS, (), process)
        controllers = {bdev: c.name for c in self._system.controllers.list() for bdev in c.bdevs}
        for bdev in self._system.bdevs.list():
            self._bdev(page, bdev, controllers.get(bdev, ""))
            yield
        self._controllers(page)
        self._exports(page)
        self._pollers(page)
        page.add(catalogue.MEMORY, (), self._system.memory)
        for method, timing in self._timings.methods.items():
            page.add(catalogue.RPC, (method,), timing)

    def _bdev(self, page: Page, bdev: Bdev, controller: str) -> None:
        counted = bdev.stats(IO_CUTS)
        page.add(catalogue.BDEV, (bdev.name,), CountedBdev(bdev, controller, counted))
        if isinstance(bdev.channels, KeptChannels):
            page.add(catalogue.BDEV_KEPT, (bdev.name,), bdev.channels.kept_counters())
        for op, of_op in counted.ops.items():
            if op in bdev.io_types or of_op.submitted:  # else the bdev can't do it, and nobody tried
                page.add(catalogue.BDEV_OP, (bdev.name, op), of_op)

    def _controllers(self, page: Page) -> None:
        kept = self._system.controllers.quarantine.kept()
        for name in sorted({c.name for c in self._system.controllers.list()} | set(kept)):
            page.add(catalogue.QUARANTINE, (name,), kept.get(name, InQuarantine()))
        for controller in self._system.controllers.list():
            page.add(catalogue.CONTROLLER, (controller.name,), controller)
            for queue in controller.queues:
                page.add(catalogue.QUEUE, (controller.name, str(queue.index)), queue)

    def _exports(self, page: Page) -> None:
        for exports in self._system.exports:
            for export in exports.list():
                page.add(catalogue.EXPORT[exports.kind], (export.name,), CountedExport(export, export.counters()))

    def _pollers(self, page: Page) -> None:
        for poller, buffers in zip(self._system.pollers, self._system.buffers, strict=True):
            stats = poller.stats()
            for mode, ns in (("busy", stats.busy_ns), ("idle", stats.idle_ns), ("sleep", stats.sleep_ns)):
                page.add(catalogue.POLLER_MODE, (poller.name, mode), ns)
            page.add(catalogue.BUFFERS, (poller.name,), buffers.stats())
