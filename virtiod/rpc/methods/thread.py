"""Methods about pollers, which SPDK's clients call threads."""

from __future__ import annotations

from virtiod.api.registry import method
from virtiod.api.results.thread import (
    IoChannel,
    IoChannels,
    PolledSource,
    PollerDescription,
    Pollers,
    ThreadChannels,
    ThreadPollers,
    ThreadSources,
    ThreadStats,
    ThreadTimes,
)
from virtiod.core.cpumask import cpumask_of
from virtiod.core.ticks import TICK_RATE, now_ns
from virtiod.poller.poller import Poller
from virtiod.system import System


@method(reads=True)
async def thread_get_stats(system: System) -> ThreadStats:
    """Returns how long each poller was busy and idle."""
    return ThreadStats(tick_rate=TICK_RATE, threads=[_times(poller) for poller in system.pollers])


def _times(poller: Poller) -> ThreadTimes:
    stats = poller.stats()
    return ThreadTimes(
        name=poller.name,
        id=poller.id,
        cpumask=cpumask_of(poller.cpu),
        busy=stats.busy_ns,
        idle=stats.idle_ns + stats.sleep_ns,
        active_pollers_count=len(poller.sources()),
        timed_pollers_count=0,
        paused_pollers_count=0,
    )


@method(reads=True)
async def thread_get_pollers(system: System) -> ThreadPollers:
    """Lists what each poller polls: queues and connections."""
    return ThreadPollers(tick_rate=TICK_RATE, threads=[_sources(poller) for poller in system.pollers])


def _sources(poller: Poller) -> ThreadSources:
    active = [
        PolledSource(name=source.name, id=number, state="waiting", run_count=source.runs, busy_count=source.busy)
        for number, source in enumerate(poller.sources(), 1)
    ]
    return ThreadSources(name=poller.name, id=poller.id, active_pollers=active, timed_pollers=[], paused_pollers=[])


@method(reads=True)
async def thread_get_io_channels(system: System) -> IoChannels:
    """Lists the bdevs that have a channel on each poller."""
    channels: dict[int, list[IoChannel]] = {poller.id: [] for poller in system.pollers}
    for bdev in system.bdevs.list():
        for poller, _ in bdev.channel_stats():
            channels[poller.id].append(IoChannel(name=f"bdev_{bdev.name}", ref=1))
    threads = [ThreadChannels(name=poller.name, io_channels=channels[poller.id]) for poller in system.pollers]
    return IoChannels(tick_rate=TICK_RATE, threads=threads)


@method(reads=True)
async def virtiod_get_pollers(system: System) -> Pollers:
    """Returns each poller's core, mode and times."""
    return Pollers(tick_rate=TICK_RATE, ticks=now_ns(), pollers=[_poller(poller) for poller in system.pollers])


def _poller(poller: Poller) -> PollerDescription:
    stats = poller.stats()
    return PollerDescription(
        name=poller.name,
        id=poller.id,
        cpu=poller.cpu,
        tid=poller.tid,
        mode=poller.mode,
        busy=stats.busy_ns,
        idle=stats.idle_ns,
        sleep=stats.sleep_ns,
        rounds=stats.rounds,
        sleeps=stats.sleeps,
        in_flight=stats.in_flight,
    )
