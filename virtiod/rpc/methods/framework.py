"""Methods about starting, and about the configuration as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

from msgspec import UNSET

from virtiod.api.errors import INVALID_PARAMS, RpcError
from virtiod.api.params import Arg, Name
from virtiod.api.registry import State, method
from virtiod.api.results.framework import (
    ConfigCall,
    Reactor,
    Reactors,
    ReactorThread,
    ReloadedConfig,
    Scheduler,
    Subsystem,
)
from virtiod.api.services import Lifecycle
from virtiod.config.configuration import Configuration
from virtiod.core.cpumask import cpumask_of
from virtiod.core.described import Member
from virtiod.core.errors import VirtiodError
from virtiod.core.ticks import TICK_RATE, now_ns
from virtiod.system import SUBSYSTEMS, System


@method(
    State.STARTUP,
    in_files=False,
    errors={-errno.EBUSY: "it has begun already", -errno.EIO: "it failed; also any other -errno"},
)
async def framework_start_init(lifecycle: Lifecycle) -> bool:
    """Starts a daemon that was started with --wait-for-rpc. Answers when it runs."""
    await lifecycle.start_init()
    return True


@method(State.ANY, passive=True, reads=True, in_files=False)
async def framework_wait_init(lifecycle: Lifecycle) -> bool:
    """Answers when the daemon runs: at once if it does."""
    await lifecycle.wait_init()
    return True


@method(reads=True)
async def framework_get_subsystems() -> Annotated[list[Subsystem], Member("each after those that it depends on")]:
    """Lists the subsystems that have a configuration."""
    return [Subsystem(subsystem=name, depends_on=list(needed)) for name, needed in SUBSYSTEMS.items()]


@method(reads=True, errors={INVALID_PARAMS: "there is no such subsystem"})
async def framework_get_config(
    system: System,
    name: Annotated[str, Name("subsystem", "name")],
    with_batches: Annotated[bool, Arg("accepted for SPDK's clients; there are no batches")] = False,
) -> Annotated[list[ConfigCall], Member("in the order in which they are to be made")]:
    """Returns the calls that bring a subsystem into its present state."""
    if name not in SUBSYSTEMS:
        raise RpcError(INVALID_PARAMS, f"Subsystem '{name}' not found")
    calls = system.saved_calls(name)
    return [ConfigCall(method=call.method, params=dict(call.params) if call.params else UNSET) for call in calls]


@method(in_files=False, errors={-errno.EINVAL: "something failed; the message lists it"})
async def virtiod_reload_config(configuration: Configuration) -> ReloadedConfig:
    """Reads the file of -c again: creates what is new, deletes what was removed, replaces what changed.

    Everything else keeps running, and what RPC created stays. If something fails, the rest is still done, and the
    answer is an error that lists the failures.
    """
    changes = await configuration.reload()
    if changes.failed:
        raise VirtiodError(f"{len(changes.failed)} failed:\n" + "\n".join(changes.failed), errno.EINVAL)
    return ReloadedConfig(created=changes.created, deleted=changes.deleted, called=changes.called)


@method(reads=True)
async def framework_get_reactors(system: System) -> Reactors:
    """Returns what each poller's core does."""
    now = now_ns()
    times = _core_times()
    reactors = []
    for poller in system.pollers:
        stats = poller.stats()
        usr, sys, irq = times.get(poller.cpu, (0, 0, 0))
        thread = ReactorThread(
            name=poller.name, id=poller.id, cpumask=cpumask_of(poller.cpu), elapsed=now - system.started_ns
        )
        reactors.append(
            Reactor(
                lcore=poller.cpu,
                numa_id=_numa_node(poller.cpu),
                tid=poller.tid,
                busy=stats.busy_ns,
                idle=stats.idle_ns + stats.sleep_ns,
                in_interrupt=False,
                irq=irq,
                sys=sys,
                usr=usr,
                lw_threads=[thread],
            )
        )
    return Reactors(tick_rate=TICK_RATE, pid=os.getpid(), reactors=reactors)


@method(State.ANY, reads=True)
async def framework_get_scheduler(system: System) -> Scheduler:
    """Says how pollers are given to cores: each stays on its own."""
    return Scheduler(
        scheduler_name="static",
        scheduler_period=0,
        isolated_core_mask="0",
        scheduling_core=system.pollers[0].cpu,
    )


@method(reads=True)
async def framework_get_governor() -> Annotated[dict[str, object], Member("empty: there is no governor")]:
    """Describes the governor of the cores' frequencies. virtiod has none, and leaves them to the kernel."""
    return {}


def _core_times() -> dict[int, tuple[int, int, int]]:
    """User, system and interrupt time of each core, as /proc/stat has it."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, kernel, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
            times[int(name[3:])] = (user + nice, kernel, irq + softirq)
    return times


def _numa_node(cpu: int) -> int:
    """The NUMA node of a core; -1 when the kernel knows none."""
    nodes = Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")
    return next((int(node.name[4:]) for node in nodes), -1)
