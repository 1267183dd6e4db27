"""Results of the methods about starting, configurations and cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.core.described import Member


@dataclass(kw_only=True)
class Subsystem:
    """A part of the daemon that has a configuration of its own."""

    subsystem: Annotated[str, Member("its name")]
    depends_on: Annotated[list[str], Member("those that are configured before it")]


@dataclass(kw_only=True)
class ConfigCall:
    """A call of a configuration."""

    method: Annotated[str, Member("what is called")]
    params: Annotated[dict[str, object] | UnsetType, Member("its parameters, by name; absent when there are none")] = (
        UNSET
    )


@dataclass(kw_only=True)
class ReloadedConfig:
    """What a reload of the configuration file has changed."""

    created: Annotated[list[str], Member("names of what was created")]
    deleted: Annotated[list[str], Member("names of what was deleted")]
    called: Annotated[list[str], Member("methods of other calls that were made")]


@dataclass(kw_only=True)
class Scheduler:
    """How pollers are given to cores."""

    scheduler_name: Annotated[str, Member('always "static": each poller stays on its core')]
    scheduler_period: Annotated[int, Member("always 0: nothing is moved", "us")]
    isolated_core_mask: Annotated[str, Member('always "0": no core is left out')]
    scheduling_core: Annotated[int, Member("the first core of -m; -1 when its poller may run on any", minimum=-1)]


@dataclass(kw_only=True)
class ReactorThread:
    """What runs on a poller's core."""

    name: Annotated[str, Member("name of the poller")]
    id: Annotated[int, Member("number of the poller, from 1")]
    cpumask: Annotated[str, Member("its core, as a mask in hexadecimal")]
    elapsed: Annotated[int, Member("since it was made", "ticks")]


@dataclass(kw_only=True)
class Reactor:
    """The core of a poller."""

    lcore: Annotated[int, Member("number of the core; -1 when the poller may run on any", minimum=-1)]
    numa_id: Annotated[int, Member("its NUMA node; -1 when the kernel knows none", minimum=-1)]
    tid: Annotated[int, Member("the poller's thread, as the kernel numbers it")]
    busy: Annotated[int, Member("time in rounds that found work", "ticks")]
    idle: Annotated[int, Member("time in other rounds, and asleep", "ticks")]
    in_interrupt: Annotated[bool, Member("always false")]
    irq: Annotated[int, Member("the core's time in interrupts", "the kernel's clock ticks")]
    sys: Annotated[int, Member("the core's time in the kernel", "the kernel's clock ticks")]
    usr: Annotated[int, Member("the core's time in programs", "the kernel's clock ticks")]
    lw_threads: Annotated[list[ReactorThread], Member("the one poller")]


@dataclass(kw_only=True)
class Reactors:
    """What each poller's core does."""

    tick_rate: Annotated[int, Member("ticks per second")]
    pid: Annotated[int, Member("the daemon's process")]
    reactors: Annotated[list[Reactor], Member("in the order of the pollers")]
