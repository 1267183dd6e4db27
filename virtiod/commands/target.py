"""Serve a virtio-blk or virtio-scsi device over vhost-user (the embedded target)."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import replace

from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument, VirtiodError
from virtiod.core.sizes import parse_size
from virtiod.core.tasks import spawn
from virtiod.target.blk.device import DiskSpec, Fault
from virtiod.target.scsi.device import HostSpec
from virtiod.target.scsi.luns import LunFault, parse_luns
from virtiod.target.target import Target

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sockets", nargs="+", metavar="SOCKET", help="path of a Unix socket to listen on; each serves a disk of its own"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--memory", metavar="SIZE", help="a disk in memory, e.g. 64M (default: 64M)")
    kind.add_argument(
        "--file", metavar="PATH", help="a disk with its data in a file; SIGHUP: look at the file's size again"
    )
    kind.add_argument("--null", metavar="SIZE", help="a disk that moves no data")
    kind.add_argument(
        "--scsi",
        metavar="TARGET:LUN=SPEC,...",
        help="a SCSI host instead of a disk; SPEC is a size (in memory), null:SIZE or file:PATH, for example "
        '"0:0=64M,0:1=null:1G,2:300=file:PATH"',
    )
    parser.add_argument(
        "--queues", type=int, default=1, metavar="N", help="number of request queues (default: %(default)s)"
    )
    parser.add_argument(
        "--block-size", type=int, default=512, metavar="BYTES", help="size of a block (default: %(default)s)"
    )
    parser.add_argument("--read-only", action="store_true", help="refuse writes")
    parser.add_argument("--no-write-cache", action="store_true", help="do not offer FLUSH")
    parser.add_argument(
        "--serial", default="virtiod-target", help="serial number, at most 20 characters (default: %(default)s)"
    )
    parser.add_argument("-m", "--cpumask", metavar="MASK", help="cores to poll on (default: one thread, not pinned)")
    parser.add_argument(
        "--poll-mode",
        choices=("adaptive", "busy"),
        default="adaptive",
        help="as of `virtiod run` (default: %(default)s)",
    )
    parser.add_argument(
        "--poll-us", type=int, default=200, metavar="US", help="as of `virtiod run` (default: %(default)s)"
    )
    parser.add_argument(
        "--fault",
        metavar="KIND[,after=N][,every=N][,delay=US]",
        default="",
        help="fault to inject, for tests: delay, error, used-id, used-index, no-status, silence or death; with --scsi, "
        "on all LUNs: delay, sense (with ,key=H,asc=H,ascq=H,length=N,descriptor=1), status or response (with "
        ",value=H), silence, death, used-id, used-index or no-response, and ,times=N,opcode=H",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    if (args.file or (args.scsi and "file:" in args.scsi)) and len(args.sockets) > 1:
        raise InvalidArgument("--file and file:PATH serve one socket only")
    cpus = parse_cpumask(args.cpumask) if args.cpumask else (-1,)
    spec = _host(args) if args.scsi else _disk(args)
    target = Target(dict.fromkeys(args.sockets, spec), cpus, args.poll_mode, args.poll_us)
    asyncio.run(_serve(target))
    return 0


def _host(args: argparse.Namespace) -> HostSpec:
    luns = parse_luns(args.scsi, LunFault.parse(args.fault))
    changes = {"block_size": args.block_size, "read_only": args.read_only, "write_cache": not args.no_write_cache}
    targets = {t: {n: replace(lun, **changes) for n, lun in of.items()} for t, of in luns.items()}
    return HostSpec(targets, queues=args.queues)


def _disk(args: argparse.Namespace) -> DiskSpec:
    return DiskSpec(
        size=None if args.file else parse_size(args.null or args.memory or "64M"),
        memory=not args.file and not args.null,
        path=args.file or "",
        block_size=args.block_size,
        queues=args.queues,
        read_only=args.read_only,
        write_cache=not args.no_write_cache,
        serial=args.serial,
        fault=Fault.parse(args.fault),
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
    for path, device in target.devices.items():
        print(f"serving {device.size} bytes at {path}", flush=True)
    for path, host in target.hosts.items():
        print(f"serving {len(host.luns)} LUNs at {path}", flush=True)
    await ended.wait()
    await asyncio.gather(*resizes)
    await target.stop()


async def _resize(target: Target) -> None:
    for path, device in target.devices.items():
        if device.spec.path:
            try:
                target.resize(path)
            except VirtiodError as error:
                print(f"virtiod target: {path}: {error}", file=sys.stderr)
    for path, host in target.hosts.items():
        try:
            await host.resize_files()
        except VirtiodError as error:
            print(f"virtiod target: {path}: {error}", file=sys.stderr)
