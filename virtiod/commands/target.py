"""Serve a virtio-blk or virtio-scsi device over vhost-user (the embedded target)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import sys
from dataclasses import dataclass, replace
from typing import Annotated

from virtiod.core import cmdline
from virtiod.core.cmdline import Opt
from virtiod.core.counted import counted
from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument, VirtiodError
from virtiod.core.escape import escaped
from virtiod.core.logtext import logged
from virtiod.core.memory import MIB
from virtiod.core.outqueue import OutputQueue, let_go_of, output_of
from virtiod.core.sizes import parse_size
from virtiod.core.tasks import spawn
from virtiod.poller.poller import POLL_MODES
from virtiod.target.blk.device import DiskSpec, Fault
from virtiod.target.scsi.device import HostSpec
from virtiod.target.scsi.luns import LunFault, parse_luns
from virtiod.target.session import RING_FEATURES
from virtiod.target.target import Target
from virtiod.virtio.blk import TARGET_SERIAL
from virtiod.virtio.features import Feature

__all__ = ["add_arguments", "run"]

NOT_PINNED = (-1,)
DEFAULT_SIZE = 64 * MIB

logger = logging.getLogger(__name__)


def _cpus(text: str) -> tuple[int, ...]:
    return parse_cpumask(text) if text else NOT_PINNED


@dataclass(frozen=True)
class TargetOptions:
    """memory, null: bytes; one of them, file or scsi says what kind of disk it is."""

    sockets: Annotated[
        list[str], Opt("sockets", "path of a Unix socket to listen on; each serves a disk of its own", "SOCKET")
    ]
    memory: Annotated[
        int | None,
        Opt("--memory", "a disk in memory, e.g. 64M (default: 64M)", "SIZE", excludes="kind", convert=parse_size),
    ] = None
    file: Annotated[
        str | None,
        Opt("--file", "a disk with its data in a file; SIGHUP: look at the file's size again", "PATH", excludes="kind"),
    ] = None
    null: Annotated[
        int | None,
        Opt("--null", "a disk that keeps no data and reads as zeroes", "SIZE", excludes="kind", convert=parse_size),
    ] = None
    scsi: Annotated[
        str | None,
        Opt(
            "--scsi",
            "a SCSI host instead of a disk; SPEC is a size (in memory), null:SIZE or file:PATH, for example "
            '"0:0=64M,0:1=null:1G,2:300=file:PATH"',
            "TARGET:LUN=SPEC,...",
            excludes="kind",
        ),
    ] = None
    queues: Annotated[int, Opt("--queues", "number of request queues (default: %(default)s)", "N")] = 1
    block_size: Annotated[int, Opt("--block-size", "size of a block (default: %(default)s)", "BYTES")] = 512
    read_only: Annotated[bool, Opt("--read-only", "refuse writes")] = False
    no_write_cache: Annotated[bool, Opt("--no-write-cache", "do not offer FLUSH")] = False
    no_indirect: Annotated[bool, Opt("--no-indirect", "do not offer indirect descriptors, for tests")] = False
    no_event_idx: Annotated[bool, Opt("--no-event-idx", "do not offer event indexes, for tests")] = False
    cache: Annotated[
        bool,
        Opt(
            "--cache",
            "with --file or file:PATH, keep what is written in memory until it is flushed; it is lost if the process "
            "is killed",
        ),
    ] = False
    serial: Annotated[
        str,
        Opt(
            "--serial",
            "serial number of a disk, at most 20 characters (default: one that is always the same; with --memory, "
            "another one at each start, as the data is gone)",
        ),
    ] = ""
    cpus: Annotated[
        tuple[int, ...],
        Opt("-m/--cpumask", "cores to poll on (default: one thread, not pinned)", "MASK", convert=_cpus, default=None),
    ] = NOT_PINNED
    poll_mode: Annotated[str, Opt("--poll-mode", "as of `virtiod run` (default: %(default)s)", choices=POLL_MODES)] = (
        "adaptive"
    )
    poll_us: Annotated[int, Opt("--poll-us", "as of `virtiod run` (default: %(default)s)", "US")] = 200
    fault: Annotated[
        str,
        Opt(
            "--fault",
            "fault to inject, for tests: delay, error, used-id, used-index, no-status, silence or death; with --scsi, "
            "on all LUNs: delay, sense (with ,key=H,asc=H,ascq=H,length=N,descriptor=1,deferred=1), status or response "
            "(with ,value=H), silence, death, used-id, used-index or no-response, and ,opcode=H",
            "KIND[,after=N][,every=N][,times=N][,delay=US]",
        ),
    ] = ""
    late_dma: Annotated[
        int,
        Opt(
            "--late-dma",
            "for tests, with --fault=silence: a queue with requests that were not answered does not stop; they are "
            "done at random within this time, when the front-end has given them up",
            "MS",
        ),
    ] = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `virtiod target` to a parser."""
    cmdline.add_arguments(parser, TargetOptions)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    options = cmdline.options_from(TargetOptions, args)
    if (options.file or "file:" in (options.scsi or "")) and len(options.sockets) > 1:
        raise InvalidArgument("--file and file:PATH serve one socket only")
    rings = RING_FEATURES & ~(options.no_indirect << Feature.INDIRECT_DESC | options.no_event_idx << Feature.EVENT_IDX)
    specs = {path: _host(options, options.scsi) if options.scsi else _disk(options) for path in options.sockets}
    with logged():
        asyncio.run(_serve(Target(specs, options.cpus, options.poll_mode, options.poll_us, rings)))
    return 0


def _host(options: TargetOptions, scsi: str) -> HostSpec:
    luns = parse_luns(scsi, LunFault.parse(options.fault))
    block_size, read_only, write_cache = options.block_size, options.read_only, not options.no_write_cache
    cache = options.cache
    targets = {
        t: {
            n: replace(
                lun,
                block_size=block_size,
                read_only=read_only,
                write_cache=write_cache,
                cache=cache,
                serial=_new_serial(f"virtiod-{t}-{n}-") if lun.memory else "",
            )
            for n, lun in of.items()
        }
        for t, of in luns.items()
    }
    return HostSpec(targets, queues=options.queues)


def _new_serial(prefix: str) -> str:
    """Of a disk whose data ends with the process: its successor must not be taken for it."""
    return prefix + secrets.token_hex(6)


def _disk(options: TargetOptions) -> DiskSpec:
    sizes = (size for size in (options.null, options.memory) if size is not None)
    memory = not options.file and options.null is None
    return DiskSpec(
        size=None if options.file else next(sizes, DEFAULT_SIZE),
        memory=memory,
        path=options.file or "",
        block_size=options.block_size,
        queues=options.queues,
        read_only=options.read_only,
        write_cache=not options.no_write_cache,
        cache=options.cache,
        serial=options.serial or (_new_serial("memory-") if memory else TARGET_SERIAL),
        fault=Fault.parse(options.fault),
        late_dma_ms=options.late_dma,
    )


async def _serve(target: Target) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    await target.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    resizes: set[asyncio.Task[None]] = set()

    def on_resize() -> None:
        task = spawn(_resize(target), "resize")
        resizes.add(task)
        task.add_done_callback(resizes.discard)

    loop.add_signal_handler(signal.SIGHUP, on_resize)
    printed = OutputQueue(output_of(sys.stdout))  # who has started it may not read what it says
    for path, device in target.devices.items():
        printed.put(_line(f"serving {device.size} bytes at {path}"))
    for path, host in target.hosts.items():
        printed.put(_line(f"serving {counted(len(host.luns), 'LUN')} at {path}"))
    await ended.wait()
    await asyncio.gather(*resizes)
    await target.stop()
    if not printed.close():
        let_go_of(sys.stdout)


def _line(text: str) -> bytes:
    return f"{escaped(text)}\n".encode()


async def _resize(target: Target) -> None:
    for path, device in target.devices.items():
        if device.spec.path:
            try:
                target.resize(path)
            except VirtiodError as error:
                logger.warning("%s: %s", path, error)
    for path, host in target.hosts.items():
        try:
            await host.resize_files()
        except VirtiodError as error:
            logger.warning("%s: %s", path, error)
