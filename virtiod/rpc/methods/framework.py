"""Methods about starting, and about the configuration as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from virtiod.api.errors import INVALID_PARAMS, RpcError
from virtiod.api.params import Arg
from virtiod.api.registry import State, method
from virtiod.config.saved import SUBSYSTEMS, running_config
from virtiod.core.errors import VirtiodError
from virtiod.rpc.methods.thread import TICK_RATE, cpumask_of, now_ns

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon


@method(State.STARTUP)
async def framework_start_init(daemon: Daemon) -> bool:
    """Starts a daemon that was started with --wait-for-rpc. Answers when it runs."""
    await daemon.start_init()
    return True


@method(State.ANY, passive=True, reads=True)
async def framework_wait_init(daemon: Daemon) -> bool:
    """Answers when the daemon runs: at once if it does."""
    await daemon.initialised.wait()
    return True


@method(reads=True)
async def framework_get_subsystems(daemon: Daemon) -> list[dict[str, Any]]:
    """Lists the subsystems that have a configuration, each after those that it depends on."""
    return [{"subsystem": name, "depends_on": list(needed)} for name, needed in SUBSYSTEMS.items()]


@method(reads=True)
async def framework_get_config(
    daemon: Daemon,
    name: Annotated[str, Arg("subsystem", "name")],
    with_batches: Annotated[bool, Arg("accepted for SPDK's clients; there are no batches")] = False,
) -> list[dict[str, Any]]:
    """Tells the calls that bring a subsystem into the state that it is in."""
    if name not in SUBSYSTEMS:
        raise RpcError(INVALID_PARAMS, f"Subsystem '{name}' not found")
    return running_config(daemon, name)


@method()
async def virtiod_reload_config(daemon: Daemon) -> dict[str, Any]:
    """Reads the file of -c again: creates what is new in it, deletes what is gone from it, replaces what changed.

    The rest runs on, and what was made by RPC stays. The result is {"created", "deleted", "called"}, arrays of names.
    When something failed the rest is done all the same, and the answer is an error that lists it.
    """
    changes = await daemon.configuration.reload()
    if changes.failed:
        raise VirtiodError(f"{len(changes.failed)} failed:\n" + "\n".join(changes.failed), errno.EINVAL)
    return {"created": changes.created, "deleted": changes.deleted, "called": changes.called}


@method(reads=True)
async def framework_get_reactors(daemon: Daemon) -> dict[str, Any]:
    """Tells what each poller's core does.

    busy and idle are in ticks, an adaptive poller's sleep counts as idle; irq, sys and usr are the core's, in the
    kernel's clock ticks.
    """
    now = now_ns()
    times = _core_times()
    reactors = []
    for poller in daemon.pollers:
        stats = poller.stats()
        usr, system, irq = times.get(poller.cpu, (0, 0, 0))
        thread = {
            "name": poller.name,
            "id": poller.id,
            "cpumask": cpumask_of(poller.cpu),
            "elapsed": now - daemon.started_ns,
        }
        reactors.append(
            {
                "lcore": poller.cpu,
                "numa_id": _numa_node(poller.cpu),
                "tid": poller.tid,
                "busy": stats.busy_ns,
                "idle": stats.idle_ns + stats.sleep_ns,
                "in_interrupt": False,
                "irq": irq,
                "sys": system,
                "usr": usr,
                "lw_threads": [thread],
            }
        )
    return {"tick_rate": TICK_RATE, "pid": os.getpid(), "reactors": reactors}


def _core_times() -> dict[int, tuple[int, int, int]]:
    """User, system and interrupt time of each core, as /proc/stat has it."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
            times[int(name[3:])] = (user + nice, system, irq + softirq)
    return times


def _numa_node(cpu: int) -> int:
    """The NUMA node of a core; -1 when the kernel knows none."""
    nodes = Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")
    return next((int(node.name[4:]) for node in nodes), -1)
