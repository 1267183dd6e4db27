"""Results of the methods about pollers. spdk_top expects these objects with exactly these members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtiod.core.described import Member

TickRate = Annotated[int, Member("ticks per second")]
Name = Annotated[str, Member("name of the poller")]
Number = Annotated[int, Member("number of the poller, from 1")]


@dataclass(kw_only=True)
class ThreadTimes:
    """A poller, and how long it was busy."""

    name: Name
    id: Number
    cpumask: Annotated[str, Member("its core, as a mask in hexadecimal")]
    busy: Annotated[int, Member("time in rounds that found work", "ticks")]
    idle: Annotated[int, Member("time in other rounds, and asleep", "ticks")]
    active_pollers_count: Annotated[int, Member("queues and connections that it polls")]
    timed_pollers_count: Annotated[int, Member("always 0")]
    paused_pollers_count: Annotated[int, Member("always 0")]


@dataclass(kw_only=True)
class ThreadStats:
    """How long each poller was busy."""

    tick_rate: TickRate
    threads: Annotated[list[ThreadTimes], Member("one for each poller")]


@dataclass(kw_only=True)
class PolledSource:
    """A queue or a connection that is polled."""

    name: Annotated[str, Member("its name")]
    id: Annotated[int, Member("number on this poller, from 1")]
    state: Annotated[str, Member('always "waiting"')]
    run_count: Annotated[int, Member("times that it was polled")]
    busy_count: Annotated[int, Member("times that there was work")]


@dataclass(kw_only=True)
class ThreadSources:
    """A poller, and what it polls."""

    name: Name
    id: Number
    active_pollers: Annotated[list[PolledSource], Member("its queues and connections")]
    timed_pollers: Annotated[list[PolledSource], Member("always empty")]
    paused_pollers: Annotated[list[PolledSource], Member("always empty")]


@dataclass(kw_only=True)
class ThreadPollers:
    """What each poller polls."""

    tick_rate: TickRate
    threads: Annotated[list[ThreadSources], Member("one for each poller")]


@dataclass(kw_only=True)
class IoChannel:
    """A bdev on a poller."""

    name: Annotated[str, Member('the name of the bdev after "bdev_"')]
    ref: Annotated[int, Member("always 1")]


@dataclass(kw_only=True)
class ThreadChannels:
    """A poller, and the bdevs that have a channel on it."""

    name: Name
    io_channels: Annotated[list[IoChannel], Member("one for each bdev")]


@dataclass(kw_only=True)
class IoChannels:
    """The channels of each poller."""

    tick_rate: TickRate
    threads: Annotated[list[ThreadChannels], Member("one for each poller")]


@dataclass(kw_only=True)
class PollerDescription:
    """A poller."""

    name: Name
    id: Number
    cpu: Annotated[int, Member("its core; -1 when it may run on any", minimum=-1)]
    tid: Annotated[int, Member("its thread, as the kernel numbers it")]
    mode: Annotated[str, Member('how it waits for work: "adaptive" or "busy"')]
    busy: Annotated[int, Member("time in rounds that found work", "ticks")]
    idle: Annotated[int, Member("time in other rounds", "ticks")]
    sleep: Annotated[int, Member("time asleep", "ticks")]
    rounds: Annotated[int, Member("rounds that it made")]
    sleeps: Annotated[int, Member("times that it fell asleep")]
    in_flight: Annotated[int, Member("I/Os in flight")]


@dataclass(kw_only=True)
class Pollers:
    """The pollers."""

    tick_rate: TickRate
    ticks: Annotated[int, Member("when this was, on a monotonic clock", "ticks")]
    pollers: Annotated[list[PollerDescription], Member("one for each core of -m")]
