"""Reads what the daemon counts, at the time of a scrape; nothing is kept between two of them.

bdev_get_iostat shows the same counters less a baseline, so that resetting it does not reach them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.registry import Collector

from virtiod import __version__
from virtiod.api.services import Health
from virtiod.bdev.bdev import Bdev
from virtiod.bdev.counters import ERRORS
from virtiod.bdev.histogram import cut
from virtiod.controllers.controller import State
from virtiod.core.ticks import now_ns
from virtiod.metrics.catalogue import ENTRIES
from virtiod.metrics.families import Family
from virtiod.rpc.protocol.timing import BOUNDS_S as RPC_BOUNDS_S
from virtiod.rpc.protocol.timing import Timings
from virtiod.system import System

NS = 1_000_000_000
IO_BOUNDS_NS = (*(m * 10**e for e in range(3, 10) for m in (1, 2, 5)), 10 * NS)  # 1 us to 10 s
_AT_ONCE = 20  # bdevs that are read before others get their turn: a millisecond
MODES = ("busy", "idle", "sleep")
STATES = tuple(state.value for state in State if state is not State.GONE)


IO_CUTS = [cut(bound) for bound in IO_BOUNDS_NS]
_BOUNDS = {
    "virtiod_bdev_io_duration_seconds": tuple(bound / NS for bound in IO_BOUNDS_NS),
    "virtiod_rpc_duration_seconds": RPC_BOUNDS_S,
}


class SystemCollector(Collector):
    """The daemon's metrics. Event-loop thread only; what it yields may be written by another."""

    def __init__(self, system: System, timings: Timings, health: Health) -> None:
        self._system = system
        self._timings = timings
        self._health = health
        self._families: dict[str, Family] = {}
        up_ns = now_ns() - system.started_ns
        self._started = round(time.time() - up_ns / NS, 3)

    def collect(self) -> Iterator[Family]:
        """All of ENTRIES in their order, also those that have no value now."""
        for _ in self._read():
            pass
        return self._take()

    async def collect_gently(self) -> Iterator[Family]:
        """The same, a few bdevs at a time, so that calls and exports do not wait. For one caller at a time."""
        for number, _ in enumerate(self._read(), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return self._take()

    def _take(self) -> Iterator[Family]:
        families, self._families = self._families, {}
        return iter(families.values())

    def _read(self) -> Iterator[None]:
        """Fill the families; stops after each bdev."""
        self._families = {e.name: Family(e, _BOUNDS.get(e.name, ())) for e in ENTRIES}
        self._add("build_info", (__version__, platform.python_version()), 1)
        self._add("start_time_seconds", (), self._started)
        self._add("healthy", (), int(not self._health.ailment()))
        controllers = {bdev: c.name for c in self._system.controllers.list() for bdev in c.bdevs}
        for bdev in self._system.bdevs.list():
            self._bdev(bdev, controllers.get(bdev, ""))
            yield
        self._controllers()
        self._exports()
        self._pollers()
        self._rpc()

    def _add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self._families[f"virtiod_{name}"].add(labels, value)

    def _bdev(self, bdev: Bdev, controller: str) -> None:
        totals = bdev.stats(IO_CUTS)
        read, write, flush, unmap, write_zeroes = totals.ops.values()
        name = (bdev.name,)
        self._add("bdev_info", (bdev.name, bdev.uuid, bdev.product_name, controller), 1)
        for metric, value in (
            ("capacity_bytes", bdev.size),
            ("reads_completed_total", read.completed),
            ("writes_completed_total", write.completed),
            ("unmaps_completed_total", unmap.completed),
            ("flushes_completed_total", flush.completed),
            ("write_zeroes_completed_total", write_zeroes.completed),
            ("read_bytes_total", read.bytes),
            ("written_bytes_total", write.bytes),
            ("unmapped_bytes_total", unmap.bytes),
            ("read_time_seconds_total", read.time_ns / NS),
            ("write_time_seconds_total", write.time_ns / NS),
            ("unmap_time_seconds_total", unmap.time_ns / NS),
            ("flush_time_seconds_total", flush.time_ns / NS),
            ("io_now", totals.in_flight),
            ("oldest_io_seconds", totals.oldest_ns / NS),
            ("io_time_seconds_total", totals.busy_ns / NS),
            ("io_time_weighted_seconds_total", totals.weighted_ns / NS),
        ):
            self._add(f"bdev_{metric}", name, value)
        for op, counted in totals.ops.items():
            if op not in bdev.io_types and not counted.submitted:
                continue  # what it can't do and nobody tried
            self._families["virtiod_bdev_io_errors_total"].add_each((bdev.name, op), ERRORS, counted.errors)
            self._families["virtiod_bdev_io_duration_seconds"].add_histogram(
                (bdev.name, op), counted.below, counted.time_ns / NS
            )

    def _controllers(self) -> None:
        for controller in self._system.controllers.list():
            name = controller.name
            self._add("controller_info", (name, controller.dev_type, controller.trtype, controller.traddr), 1)
            self._add("controller_up", (name,), int(controller.state is State.UP))
            states = [int(controller.state == state) for state in STATES]
            self._families["virtiod_controller_state"].add_each((name,), STATES, states)
            self._add("controller_reconnects_total", (name,), controller.reconnects)
            self._add("controller_io_timeouts_total", (name,), controller.io_timeouts)
            for queue in controller.queues:
                labels = (name, str(queue.index))
                self._add("queue_size", labels, queue.size)
                self._add("queue_depth", labels, queue.in_flight)
                self._add("queue_kicks_total", labels, queue.kicks)
                self._add("queue_interrupts_total", labels, queue.interrupts)
                self._add("queue_full_total", labels, queue.full)

    def _exports(self) -> None:
        for exports in self._system.exports:
            kind = exports.kind
            for export in exports.list():
                labels, counters = (export.name,), export.counters()
                self._add(f"{kind}_connections", labels, export.connections)
                self._add(f"{kind}_requests_in_flight", labels, counters.in_flight)
                self._add(f"{kind}_requests_total", labels, counters.requests)
                self._add(f"{kind}_request_errors_total", labels, counters.errors)
                self._add(f"{kind}_received_bytes_total", labels, counters.received)
                self._add(f"{kind}_sent_bytes_total", labels, counters.sent)

    def _pollers(self) -> None:
        for poller, buffers in zip(self._system.pollers, self._system.buffers, strict=True):
            stats, pool = poller.stats(), buffers.stats()
            for mode, ns in zip(MODES, (stats.busy_ns, stats.idle_ns, stats.sleep_ns), strict=True):
                self._add("poller_seconds_total", (poller.name, mode), ns / NS)
            self._add("buffers_exhausted_total", (poller.name,), pool["exhausted"])
            self._add("buffers_lost_total", (poller.name,), pool["lost"])
        self._add("dma_memory_bytes", (), self._system.memory.size)
        self._add("dma_memory_used_bytes", (), self._system.memory.used)

    def _rpc(self) -> None:
        for method, timing in self._timings.methods.items():
            self._families["virtiod_rpc_duration_seconds"].add_histogram(
                (method,), list(accumulate(timing.counts)), timing.total_s
            )
