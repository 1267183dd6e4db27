"""The daemon's options: their defaults, and what they accept."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument
from virtiod.core.levels import LEVELS
from virtiod.daemon.logformats import FORMATS
from virtiod.http.security.tls import TlsFiles

DEFAULT_RPC_SOCKET = "/run/virtiod/virtiod.sock"
DEFAULT_HTTP = "127.0.0.1:9799"


@dataclass(frozen=True)
class Options:
    """As parsed. http is None when there is to be none; nbd_listen is "" when there is to be no TCP."""

    rpc_socket: str = DEFAULT_RPC_SOCKET
    cpus: tuple[int, ...] = ()
    config: str | None = None
    state: str | None = None
    wait_for_rpc: bool = False
    rpcs_allowed: frozenset[str] | None = None
    rpc_group: str | None = None
    memory_mib: int = 256
    poll_us: int = 200
    poll_mode: str = "adaptive"
    http: tuple[str, int] | None = None
    http_tokens: str | None = None
    http_rpc: bool = False
    http_tls: TlsFiles | None = None
    nbd_socket: str = ""
    nbd_listen: str = ""
    allow_unbind: bool = False
    io_timeout_s: float = 30.0
    shutdown_timeout_s: float = 20.0
    log_level: str = "INFO"
    log_format: str = "text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `virtiod run`. Those that SPDK's applications have too are spelt as there."""
    rpc = parser.add_argument_group("RPC")
    rpc.add_argument(
        "-r",
        "--rpc-socket",
        metavar="PATH",
        default=DEFAULT_RPC_SOCKET,
        help="Unix socket of RPC (default: %(default)s)",
    )
    rpc.add_argument(
        "--rpc-group", metavar="GROUP", help="group that may use RPC too (the socket's mode is then 0660, else 0600)"
    )
    rpc.add_argument("--rpcs-allowed", metavar="NAME,...", help="the only methods that may be called (default: all)")
    rpc.add_argument("--wait-for-rpc", action="store_true", help="only answer RPC until framework_start_init is called")
    rpc.add_argument(
        "-c", "--config", metavar="FILE", help="file of calls to make at start and on SIGHUP, in SPDK's format"
    )
    rpc.add_argument("--state", metavar="FILE", help="file that keeps what RPC created, to create it again at start")
    polling = parser.add_argument_group("polling")
    polling.add_argument(
        "-m",
        "--cpumask",
        metavar="MASK",
        help="cores to poll on: a hexadecimal mask, or a list like [0,2-3] (default: the first core allowed)",
    )
    polling.add_argument(
        "--poll-mode",
        choices=("adaptive", "busy"),
        default=Options.poll_mode,
        help="adaptive: sleep when idle; busy: never sleep (default: %(default)s)",
    )
    polling.add_argument(
        "--poll-us",
        type=_within(0, 10_000_000),
        metavar="US",
        default=Options.poll_us,
        help="microseconds that an adaptive poller spins without work before it sleeps (default: %(default)s)",
    )
    polling.add_argument(
        "-s",
        dest="memory",
        type=_within(8, 1 << 20),
        metavar="MIB",
        default=Options.memory_mib,
        help="MiB of DMA memory at the start; it grows (default: %(default)s)",
    )
    io = parser.add_argument_group("I/O")
    io.add_argument(
        "--allow-unbind",
        action="store_true",
        help="let attach take a PCI device from the kernel's driver, unless one of its disks is in use",
    )
    io.add_argument(
        "--nbd-socket",
        metavar="PATH",
        help="Unix socket of the NBD exports, or none (default: the RPC socket's path with -nbd.sock for .sock)",
    )
    io.add_argument(
        "--nbd-listen", metavar="HOST:PORT", default="", help="TCP address of the NBD exports (default: none)"
    )
    _add_http_arguments(parser.add_argument_group("HTTP"))
    io.add_argument(
        "--io-timeout",
        type=_seconds,
        metavar="S",
        default=Options.io_timeout_s,
        help="seconds after which an I/O fails; 0: never (default: %(default)g)",
    )
    io.add_argument(
        "--shutdown-timeout",
        type=_seconds,
        metavar="S",
        default=Options.shutdown_timeout_s,
        help="seconds that an orderly stop may take (default: %(default)g)",
    )
    log = parser.add_argument_group("log")
    log.add_argument(
        "--log-level",
        choices=tuple(LEVELS),
        default=Options.log_level,
        help="least severe level to log (default: %(default)s)",
    )
    log.add_argument(
        "--log-format",
        choices=FORMATS,
        default="auto",
        help="auto: journal if standard error leads to systemd's journal, else text (default: %(default)s)",
    )


def _add_http_arguments(http: argparse._ArgumentGroup) -> None:
    http.add_argument(
        "--http",
        metavar="HOST:PORT",
        default=DEFAULT_HTTP,
        help="address of the live page, metrics, health and /rpc, or none (default: %(default)s)",
    )
    http.add_argument(
        "--http-tokens",
        metavar="FILE",
        help="file of tokens, one of which each client needs; credential:NAME for one from systemd (default: none)",
    )
    http.add_argument("--http-rpc", action="store_true", help="serve JSON-RPC at /rpc too; needs --http-tokens")
    http.add_argument("--http-cert", metavar="FILE", help="certificate and its chain (PEM); turns TLS on")
    http.add_argument("--http-key", metavar="FILE", help="key of the certificate (default: in the same file)")
    http.add_argument(
        "--http-client-ca", metavar="FILE", help="clients need a certificate that one of these authorities signed"
    )


def _tls_files(args: argparse.Namespace) -> TlsFiles | None:
    if args.http_cert:
        return TlsFiles(args.http_cert, args.http_key or "", args.http_client_ca or "")
    for option in ("http_key", "http_client_ca"):
        if getattr(args, option):
            raise InvalidArgument(f"--{option.replace('_', '-')} needs --http-cert")
    return None


def options_from(args: argparse.Namespace) -> Options:
    """Raises InvalidArgument naming the option."""
    stem = args.rpc_socket.removesuffix(".sock")
    nbd_socket = f"{stem}-nbd.sock" if args.nbd_socket is None else _unless_none(args.nbd_socket)
    return Options(
        rpc_socket=args.rpc_socket,
        cpus=parse_cpumask(args.cpumask) if args.cpumask else (min(os.sched_getaffinity(0)),),
        config=args.config,
        state=args.state,
        wait_for_rpc=args.wait_for_rpc,
        rpcs_allowed=None if args.rpcs_allowed is None else frozenset(args.rpcs_allowed.split(",")),
        rpc_group=args.rpc_group,
        memory_mib=args.memory,
        poll_us=args.poll_us,
        poll_mode=args.poll_mode,
        http=parse_address(args.http, "--http") if _unless_none(args.http) else None,
        http_tokens=args.http_tokens,
        http_rpc=args.http_rpc,
        http_tls=_tls_files(args),
        nbd_socket=nbd_socket,
        nbd_listen=args.nbd_listen,
        allow_unbind=args.allow_unbind,
        io_timeout_s=args.io_timeout,
        shutdown_timeout_s=args.shutdown_timeout,
        log_level=args.log_level,
        log_format=args.log_format,
    )


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[address]:port"."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f"{option} {text!r}: must be HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def describe(options: Options) -> str:
    """All options as one line of JSON, for the log."""
    return json.dumps({name: _plain(value) for name, value in vars(options).items()})


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else vars(value) if isinstance(value, TlsFiles) else value


def _unless_none(text: str) -> str:
    return "" if text == "none" else text


def _within(low: int, high: int) -> Any:
    def integer(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, not {text!r}")
        return int(text)

    return integer


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to 86400, not {text!r}")
    return value
