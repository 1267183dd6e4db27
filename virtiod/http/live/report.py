"""The daemon as the page's tables show it. Each table is cut to ROWS, so that a thousand bdevs cost no more."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from typing import TypeVar

from virtiod import __version__
from virtiod.api.services import Health
from virtiod.bdev.bdev import Bdev
from virtiod.bdev.use import some
from virtiod.controllers.controller import State
from virtiod.controllers.manager import AnyController
from virtiod.core.ticks import NS_PER_S, now_ns
from virtiod.exports.interface import Export
from virtiod.http.live.sampler import Sampler, Watched
from virtiod.poller.poller import Poller
from virtiod.system import System
from virtiod.transports.table import TRANSPORTS

ROWS = 50
QUEUES = 16  # of a controller

Row = dict[str, object]
Order = float | tuple[float, float]  # to sort by
Shown = TypeVar("Shown")


def report(system: System, health: Health, sampler: Sampler, find: str) -> Row:
    """Everything but charts. find: what names must contain, ignoring case; bdevs are found by their controller too."""
    owners = {bdev: one.name for one in system.controllers.list() for bdev in one.bdevs}
    find = find.casefold()

    def found(*names: str) -> bool:
        return any(find in name.casefold() for name in names)

    bdevs: list[tuple[Bdev, Watched]] = [(b, w) for b, w in sampler.bdevs.items() if found(b.name, owners.get(b, ""))]
    controllers = [c for c in system.controllers.list() if found(c.name, c.traddr)]
    exports = [e for e in system.exports.list() if found(e.name, e.bdev.name)]
    return {
        "daemon": _daemon(system, health, sampler),
        "bdevs": _table(bdevs, _activity, lambda each: _bdev(each, owners.get(each[0], ""))),
        "controllers": _table(controllers, lambda each: each.state == State.UP, _controller),
        "exports": _table(exports, lambda each: -each.connections, lambda each: _export(each, sampler)),
        "pollers": _table(system.pollers, lambda each: 0, lambda each: _poller(each, sampler)),
    }


def _table(found: Iterable[Shown], order: Callable[[Shown], Order], row: Callable[[Shown], Row]) -> Row:
    """The first rows of what was found, and how many were found; ties stay in their order."""
    ordered = sorted(found, key=order)
    return {"rows": [row(each) for each in ordered[:ROWS]], "found": len(ordered)}


def _activity(each: tuple[Bdev, Watched]) -> tuple[float, float]:
    """A sort key: busiest first, then those with the oldest I/O in flight."""
    return -each[1].cell.iops, -each[1].oldest_ns


def _daemon(system: System, health: Health, sampler: Sampler) -> Row:
    return {
        "host": platform.node(),
        "version": __version__,
        "uptime_s": (now_ns() - system.started_ns) // NS_PER_S,
        "problem": health.problem(),
        "memory": system.memory.size,
        "memory_used": system.memory.used,
        "oldest_ns": max((watched.oldest_ns for watched in sampler.bdevs.values()), default=0),
        "controllers": len(system.controllers.list()),
        "controllers_up": sum(one.state == State.UP for one in system.controllers.list()),
        "bdevs": len(sampler.bdevs),
    }


def _bdev(each: tuple[Bdev, Watched], controller: str) -> Row:
    bdev, watched = each
    cell = watched.cell
    return {
        "name": bdev.name,
        "controller": controller,
        "size": bdev.size,
        "iops": round(cell.iops, 1),
        "bytes": round(cell.read_bytes + cell.written_bytes),
        "depth": cell.depth,
        "mean_ns": cell.mean_ns,
        "p99_ns": cell.p99_ns,
        "oldest_ns": watched.oldest_ns,
        "errors": watched.counted.errors,
        "failing": cell.errors > 0,
    }


def _controller(controller: AnyController) -> Row:
    queues = controller.queues
    return {
        "name": controller.name,
        "type": controller.dev_type,
        "transport": TRANSPORTS[controller.trtype].title,
        "address": controller.traddr,
        "state": controller.state,
        "why": "" if controller.state == State.UP else controller.last_error,
        "reconnects": controller.reconnects,
        "timeouts": controller.io_timeouts,
        "queues": [{"index": q.index, "size": q.size, "depth": q.in_flight} for q in queues[:QUEUES]],
        "queue_count": len(queues),
        "depth": sum(q.in_flight for q in queues),
    }


def _export(export: Export, sampler: Sampler) -> Row:
    requests, received, sent = sampler.rates[export].rates if export in sampler.rates else (0.0,) * 3
    counters = export.counters()
    return {
        "name": export.name,
        "kind": export.title,
        "bdev": export.bdev.name,
        "read_only": export.read_only,
        "connections": export.connections,
        "clients": some(export.peers),
        "max_connections": export.max_connections,
        "depth": counters.in_flight,
        "requests": round(requests, 1),
        "received": round(received),
        "sent": round(sent),
        "errors": counters.errors,
    }


def _poller(poller: Poller, sampler: Sampler) -> Row:
    times = sampler.rates[poller].rates if poller in sampler.rates else (0.0,) * 3
    whole = sum(times) or 1.0
    busy, idle, sleep = (time / whole for time in times)
    return {
        "name": poller.name,
        "core": poller.cpu,
        "mode": poller.mode,
        "busy": round(busy, 4),
        "idle": round(idle, 4),
        "sleep": round(sleep, 4),
        "depth": poller.stats().in_flight,
    }
