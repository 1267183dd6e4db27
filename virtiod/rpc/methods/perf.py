"""The load generator by RPC."""

from __future__ import annotations

import errno
from typing import Annotated

from virtiod.api.params import MAX_UINT32, Arg, Name
from virtiod.api.registry import method
from virtiod.core.cpumask import parse_cpumask
from virtiod.load.report import LoadReport
from virtiod.load.workload import DEFAULT_RW, MAX_QUEUE_DEPTH, MIN_BLOCK, Rw, Workload
from virtiod.system import System


@method(
    passive=True,
    errors={
        -errno.ENODEV: "there is no such bdev",
        -errno.EINVAL: "a load that is not valid, or that a bdev can't take",
        -errno.EBUSY: "a load that writes, without force, to a bdev that is in use or exported read-only",
        -errno.ENOMEM: "there is no memory for so many I/Os",
    },
)
async def perform_tests(
    system: System,
    bdevs: Annotated[list[str], Name("bdevs to load, all at once", "-b/--bdevs")],
    rw: Annotated[Rw, Arg("pattern", "-w/--rw")] = DEFAULT_RW,
    block_size: Annotated[int, Arg("bytes of an I/O", "-o/--block-size", MIN_BLOCK, MAX_UINT32)] = Workload.block_size,
    queue_depth: Annotated[
        int, Arg("I/Os in flight on each bdev and poller", "-q/--queue-depth", 1, MAX_QUEUE_DEPTH)
    ] = Workload.queue_depth,
    time_s: Annotated[float | None, Arg("seconds to run", "-t/--time-s", 0, 86400)] = None,
    total_bytes: Annotated[int | None, Arg("bytes to transfer on each bdev", "--total-bytes", 1)] = None,
    rw_mix_read: Annotated[
        int, Arg("percentage of reads with randrw", "-M/--rw-mix-read", 0, 100)
    ] = Workload.rw_mix_read,
    seed: Annotated[int | None, Arg("of addresses and data", "--seed")] = None,
    cpumask: Annotated[str | None, Arg("pollers to use, by core (default: all)", "-m/--cpumask")] = None,
    force: Annotated[bool, Arg("write also to what is in use or exported read-only", "--force")] = False,
) -> LoadReport:
    """Loads bdevs and measures what they do.

    Patterns that write destroy what is on the bdevs. They are refused on a bdev that an export has clients for, that
    another load uses, or that is exported read-only; the error says who uses it. While they run, clients that connect
    are refused. With force they run whoever uses the bdevs, and keep nobody away. Patterns that only read always run.

    Ends after time_s or total_bytes, whichever comes first; after 5 s when neither is given.
    """
    workload = Workload(
        rw=rw,
        block_size=block_size,
        queue_depth=queue_depth,
        time_s=time_s,
        total_bytes=total_bytes,
        rw_mix_read=rw_mix_read,
        seed=seed,
    )
    cpus = None if cpumask is None else parse_cpumask(cpumask)
    return await system.load.run(bdevs, workload, cpus, force=force)
