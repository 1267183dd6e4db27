"""What must hold after any fault and recovery: everything is as it was before, and every disk works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.process import Daemon, daemon
from tests.support.waiting import soon, until, wait_until
from virtiod.bdev.probe import Probe
from virtiod.system import System


def lent(system: System) -> list[str]:
    """What the pollers have lent: buffers neither in their pools nor in quarantine, and I/Os that are in flight."""
    found = []
    for poller, pool in zip(system.pollers, (buffers.stats() for buffers in system.buffers), strict=True):
        for size in ("small", "large"):
            if pool[f"{size}_free"] + pool[f"quarantined_{size}"] != pool[size]:
                found.append(f"{poller.name}: {pool[f'{size}_free']} of {pool[size]} {size} buffers are free")
        if poller.stats().in_flight:
            found.append(f"{poller.name}: {poller.stats().in_flight} I/Os in flight")
    return found


def unrest(system: System) -> list[str]:
    """What is not as it is at rest."""
    found = lent(system)
    for bdev in system.bdevs.list():
        if bdev.channels.in_flight():
            found.append(f"{bdev.name}: {bdev.channels.in_flight()} I/Os in flight")
    for controller in system.controllers.list():
        for queue in controller.request_queues:
            counters = queue.counters()
            if counters.in_flight or counters.submitted != counters.completed:
                found.append(f"{controller.name}: {counters}")
    return found + [f"{name}: {kept} in quarantine" for name, kept in system.controllers.quarantine.kept().items()]


async def check_at_rest(system: System, flush: bool = False) -> None:
    """Pools, slots and lines become what they were at the start, nothing is in quarantine, and each bdev reads.

    flush: first, so that nothing is kept any more.
    """
    for bdev in system.bdevs.list():
        if flush:
            await check_does(system, bdev.name, "flush", 0)
        await check_does(system, bdev.name, "read", bdev.block_size)
    await until(lambda: not unrest(system), lambda: f"rest: {unrest(system)}")


async def check_does(system: System, name: str, op: str, length: int) -> None:
    """That bdev does it on every poller."""
    bdev = system.bdevs.get(name)
    for poller in system.pollers:
        probe = Probe(system.memory, poller, bdev.channels, 4096)
        assert await soon(probe.submit(op, 0, length)) == 0, (name, op)
        probe.close()


# ---- of a daemon


@contextmanager
def recovering(run_dir: Path, *options: str | Path) -> Iterator[Daemon]:
    """daemon() of a test of faults: at the test's end what serves I/O is at rest, and every disk of it reads."""
    with daemon(run_dir, *options) as virtiod:
        yield virtiod
        if virtiod.process.poll() is None:
            check_recovered(virtiod)


def check_recovered(virtiod: Daemon) -> None:
    """What serves I/O is at rest, and every disk of it reads. Ends what the test has started."""
    for call in virtiod.calls:
        call.cancel()
    for controller in virtiod.call("virtiod_get_controllers"):
        if controller["state"] == "up":
            _check(virtiod, controller["name"])


def _check(virtiod: Daemon, name: str) -> None:
    """Of one controller."""

    def left() -> list[object]:
        controller = virtiod.controller(name)
        busy = [queue for queue in controller["queues"] if queue["in_flight"] and controller["dev_type"] == "blk"]
        return [*busy, *([controller["quarantine"]] if "quarantine" in controller else [])]

    for bdev in virtiod.call("bdev_get_bdevs"):
        if bdev["name"].startswith(name):
            (result,) = virtiod.call("perform_tests", bdevs=[bdev["name"]], rw="read", total_bytes=4096)["results"]
            assert (result["status"], result["io_failed"]) == ("finished", 0), bdev["name"]
    wait_until(lambda: not left(), f"{name} to be at rest")
