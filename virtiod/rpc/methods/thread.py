"""Methods about pollers, which SPDK's clients call threads."""

from __future__ import annotations

from typing import Any

from virtiod.api.registry import method
from virtiod.core.cpumask import cpumask_of
from virtiod.core.ticks import TICK_RATE, now_ns
from virtiod.system import System

# spdk_top takes these objects with exactly these members, no more and no fewer.


@method(reads=True)
async def thread_get_stats(system: System) -> dict[str, Any]:
    """Tells how long each poller was busy and idle, in ticks; sleeping counts as idle."""
    threads = []
    for poller in system.pollers:
        stats = poller.stats()
        threads.append(
            {
                "name": poller.name,
                "id": poller.id,
                "cpumask": cpumask_of(poller.cpu),
                "busy": stats.busy_ns,
                "idle": stats.idle_ns + stats.sleep_ns,
                "active_pollers_count": len(poller.sources()),
                "timed_pollers_count": 0,
                "paused_pollers_count": 0,
            }
        )
    return {"tick_rate": TICK_RATE, "threads": threads}


@method(reads=True)
async def thread_get_pollers(system: System) -> dict[str, Any]:
    """Lists what each poller polls: queues and connections."""
    threads = []
    for poller in system.pollers:
        active = [
            {
                "name": source.name,
                "id": number,
                "state": "waiting",
                "run_count": source.runs,
                "busy_count": source.busy,
            }
            for number, source in enumerate(poller.sources(), 1)
        ]
        threads.append(
            {
                "name": poller.name,
                "id": poller.id,
                "active_pollers": active,
                "timed_pollers": [],
                "paused_pollers": [],
            }
        )
    return {"tick_rate": TICK_RATE, "threads": threads}


@method(reads=True)
async def thread_get_io_channels(system: System) -> dict[str, Any]:
    """Lists the bdevs that have a channel on each poller."""
    channels: dict[int, list[dict[str, Any]]] = {poller.id: [] for poller in system.pollers}
    for bdev in system.bdevs.list():
        for poller, _ in bdev.channel_stats(latencies=False):
            channels[poller.id].append({"name": f"bdev_{bdev.name}", "ref": 1})
    threads = [{"name": poller.name, "io_channels": channels[poller.id]} for poller in system.pollers]
    return {"tick_rate": TICK_RATE, "threads": threads}


@method(reads=True)
async def virtiod_get_pollers(system: System) -> dict[str, Any]:
    """Tells each poller's core, mode and times.

    busy, idle and sleep are in ticks; rounds and sleeps are counts; in_flight is the number of I/Os.
    """
    pollers = []
    for poller in system.pollers:
        stats = poller.stats()
        pollers.append(
            {
                "name": poller.name,
                "id": poller.id,
                "cpu": poller.cpu,
                "tid": poller.tid,
                "mode": poller.mode,
                "busy": stats.busy_ns,
                "idle": stats.idle_ns,
                "sleep": stats.sleep_ns,
                "rounds": stats.rounds,
                "sleeps": stats.sleeps,
                "in_flight": stats.in_flight,
            }
        )
    return {"tick_rate": TICK_RATE, "ticks": now_ns(), "pollers": pollers}
