"""Serve a virtio-blk device over vhost-user: the embedded target."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from virtiod.errors import InvalidArgument, VirtiodError
from virtiod.options import parse_cpumask
from virtiod.target.blk import DiskSpec, Fault
from virtiod.target.target import Target

__all__ = ["add_arguments", "run"]

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of "64M"; raises InvalidArgument."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in UNITS:
        raise InvalidArgument(f"size {text!r}: must be a number, and K, M, G or T at most")
    return int(number) * UNITS[unit]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sockets", nargs="+", metavar="SOCKET", help="where to listen; a disk for each")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--memory", metavar="SIZE", help="a disk in memory, e.g. 64M (default: 64M)")
    kind.add_argument("--file", metavar="PATH", help="a disk over a file; SIGHUP: it may have grown")
    kind.add_argument("--null", metavar="SIZE", help="a disk that moves no data")
    parser.add_argument("--queues", type=int, default=1, metavar="N", help="request queues (default: %(default)s)")
    parser.add_argument("--block-size", type=int, default=512, metavar="BYTES", help="default: %(default)s")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--no-write-cache", action="store_true", help="offer no FLUSH")
    parser.add_argument("--serial", default="virtiod-target", help="at most 20 characters (default: %(default)s)")
    parser.add_argument("-m", "--cpumask", metavar="MASK", help="cores that poll (default: one thread, not pinned)")
    parser.add_argument("--poll-mode", choices=("adaptive", "busy"), default="adaptive", help="default: %(default)s")
    parser.add_argument("--poll-us", type=int, default=200, metavar="US", help="default: %(default)s")
    parser.add_argument(
        "--fault",
        metavar="KIND[,after=N][,every=N][,delay=US]",
        default="",
        help="for tests: delay, error, used-id, used-index, no-status, silence or death",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    if args.file and len(args.sockets) > 1:
        raise InvalidArgument("--file: one socket only")
    spec = DiskSpec(
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
    cpus = parse_cpumask(args.cpumask) if args.cpumask else (-1,)
    target = Target(dict.fromkeys(args.sockets, spec), cpus, args.poll_mode, args.poll_us)
    asyncio.run(_serve(target))
    return 0


async def _serve(target: Target) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    await target.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, _resize, target)
    for path, device in target.devices.items():
        print(f"serving {device.size} bytes at {path}", flush=True)
    await ended.wait()
    await target.stop()


def _resize(target: Target) -> None:
    for path, device in target.devices.items():
        if device.spec.path:
            try:
                target.resize(path)
            except VirtiodError as error:
                print(f"virtiod target: {path}: {error}", file=sys.stderr)
