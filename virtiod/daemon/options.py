"""The daemon's options: their names, defaults, help, and what they accept."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

from virtiod.core import cmdline
from virtiod.core.cmdline import Made, Opt, seconds, within
from virtiod.core.cpumask import parse_cpumask
from virtiod.core.errors import InvalidArgument
from virtiod.core.levels import LEVELS
from virtiod.core.names import quoted
from virtiod.core.pages import HUGE, Huge
from virtiod.daemon.logformats import FORMATS
from virtiod.exports.interface import ListenOptions
from virtiod.http.security.tls import TlsFiles
from virtiod.poller.poller import POLL_MODES
from virtiod.rpc.methods import METHODS
from virtiod.transports.epoch import PEER_GRACE_S

DEFAULT_RPC_SOCKET = "/run/virtiod/virtiod.sock"
DEFAULT_HTTP = "127.0.0.1:9799"


def parse_address(text: str, option: str) -> tuple[str, int]:
    """The host and the port of "host:port" or "[address]:port"."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f"{option} {text!r}: must be HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _http(text: str) -> tuple[str, int] | None:
    return None if text in {"", "none"} else parse_address(text, "--http")


def _allowed(text: str) -> frozenset[str]:
    """Names of methods. A misspelt one would forbid what was meant, without a word."""
    known = {*METHODS, *(alias for method in METHODS.values() for alias in method.aliases)}
    names = frozenset(name.strip() for name in text.split(","))
    for name in sorted(names - known):
        near = get_close_matches(name, sorted(known))
        meant = f"; there is {', '.join(near)}" if near else "; virtiod-rpc rpc_get_methods lists those that there are"
        raise InvalidArgument(f"--rpcs-allowed: there is no method {quoted(name)}{meant}")
    return names


def _cpus(args: argparse.Namespace) -> tuple[int, ...]:
    return parse_cpumask(args.cpus) if args.cpus else (min(os.sched_getaffinity(0)),)


def _nbd_socket(args: argparse.Namespace) -> str:
    """The path of the NBD socket: beside the RPC socket, unless it is given."""
    given: str | None = args.nbd_socket
    if given is None:
        return f"{args.rpc_socket.removesuffix('.sock')}-nbd.sock"
    return "" if given == "none" else given


def _tls_files(args: argparse.Namespace) -> TlsFiles | None:
    if args.http_cert:
        return TlsFiles(args.http_cert, args.http_key or "", args.http_client_ca or "")
    for option in ("http_key", "http_client_ca"):
        if getattr(args, option):
            raise InvalidArgument(f"--{option.replace('_', '-')} needs --http-cert")
    return None


@dataclass(frozen=True)
class Options:
    """The options of `virtiod run`; those that SPDK's applications have too are spelt as there.

    http: None for no HTTP server. nbd_socket, nbd_listen: "" for none. memory_mib: MiB; poll_us: microseconds.
    """

    rpc_socket: Annotated[str, Opt("-r/--rpc-socket", "Unix socket of RPC (default: %(default)s)", "PATH", "RPC")] = (
        DEFAULT_RPC_SOCKET
    )
    rpc_group: Annotated[
        str | None,
        Opt("--rpc-group", "group that may use RPC too (the socket's mode is then 0660, else 0600)", "GROUP", "RPC"),
    ] = None
    rpcs_allowed: Annotated[
        frozenset[str] | None,
        Opt(
            "--rpcs-allowed",
            "the only methods that may be called (default: all)",
            "NAME,...",
            "RPC",
            convert=_allowed,
        ),
    ] = None
    wait_for_rpc: Annotated[
        bool, Opt("--wait-for-rpc", "only answer RPC until framework_start_init is called", group="RPC")
    ] = False
    config: Annotated[
        str | None, Opt("-c/--config", "file of calls to make at start and on SIGHUP, in SPDK's format", "FILE", "RPC")
    ] = None
    state: Annotated[
        str | None, Opt("--state", "file that keeps what RPC created, to create it again at start", "FILE", "RPC")
    ] = None
    cpus: Annotated[
        tuple[int, ...],
        Opt(
            "-m/--cpumask",
            "cores to poll on: a hexadecimal mask, or a list like [0,2-3] (default: the first core allowed)",
            "MASK",
            "polling",
        ),
        Made(_cpus),
    ] = ()
    poll_mode: Annotated[
        str,
        Opt(
            "--poll-mode",
            "adaptive: sleep when idle; busy: never sleep (default: %(default)s)",
            group="polling",
            choices=POLL_MODES,
        ),
    ] = "adaptive"
    poll_us: Annotated[
        int,
        Opt(
            "--poll-us",
            "microseconds that an adaptive poller spins without work before it sleeps (default: %(default)s)",
            "US",
            "polling",
            parse=within(0, 10_000_000),
        ),
    ] = 200
    memory_mib: Annotated[
        int,
        Opt(
            "-s",
            "MiB of DMA memory at the start; it grows (default: %(default)s)",
            "MIB",
            "polling",
            parse=within(8, 1 << 20),
        ),
    ] = 256
    huge: Annotated[
        Huge,
        Opt(
            "--huge",
            "huge pages for DMA memory: never; try: if there are enough, else plain ones; need: fail without them "
            "(default: %(default)s)",
            group="polling",
            choices=HUGE,
        ),
    ] = "try"
    allow_unbind: Annotated[
        bool,
        Opt(
            "--allow-unbind",
            "let attach take a PCI device from the kernel's driver, unless one of its disks is in use",
            group="I/O",
        ),
    ] = False
    nbd_socket: Annotated[
        str,
        Opt(
            "--nbd-socket",
            "Unix socket of the NBD exports, or none (default: the RPC socket's path, with -nbd.sock instead of .sock)",
            "PATH",
            "I/O",
        ),
        Made(_nbd_socket),
    ] = ""
    nbd_listen: Annotated[
        str, Opt("--nbd-listen", "TCP address of the NBD exports (default: none)", "HOST:PORT", "I/O")
    ] = ""
    http: Annotated[
        tuple[str, int] | None,
        Opt(
            "--http",
            "address of the live page, metrics, health and /rpc, or none (default: %(default)s)",
            "HOST:PORT",
            "HTTP",
            convert=_http,
            default=DEFAULT_HTTP,
        ),
    ] = None
    http_tokens: Annotated[
        str | None,
        Opt(
            "--http-tokens",
            "file of tokens, one of which each client needs; credential:NAME for one from systemd (default: none)",
            "FILE",
            "HTTP",
        ),
    ] = None
    http_rpc: Annotated[bool, Opt("--http-rpc", "serve JSON-RPC at /rpc too; needs --http-tokens", group="HTTP")] = (
        False
    )
    http_tls: Annotated[
        TlsFiles | None,
        Opt("--http-cert", "certificate and its chain (PEM); turns TLS on", "FILE", "HTTP"),
        Opt("--http-key", "key of the certificate (default: in the same file)", "FILE", "HTTP"),
        Opt("--http-client-ca", "clients need a certificate that one of these authorities signed", "FILE", "HTTP"),
        Made(_tls_files),
    ] = None
    io_timeout_s: Annotated[
        float,
        Opt(
            "--io-timeout",
            "seconds that a device may take to answer an I/O; 0: any time (default: %(default)g)",
            "S",
            "I/O",
            parse=seconds,
        ),
    ] = 30.0
    peer_grace_s: Annotated[
        float,
        Opt(
            "--peer-grace",
            "seconds from when a vhost-user target closed its connection until it counts as gone, if its process can't "
            "be seen (default: %(default)g)",
            "S",
            "I/O",
            parse=seconds,
        ),
    ] = PEER_GRACE_S
    shutdown_timeout_s: Annotated[
        float,
        Opt(
            "--shutdown-timeout",
            "seconds that an orderly stop may take (default: %(default)g)",
            "S",
            "I/O",
            parse=seconds,
        ),
    ] = 20.0
    log_level: Annotated[
        str, Opt("--log-level", "least severe level to log (default: %(default)s)", group="log", choices=tuple(LEVELS))
    ] = "INFO"
    log_format: Annotated[
        str,
        Opt(
            "--log-format",
            "auto: journal if standard error leads to systemd's journal, else text (default: %(default)s)",
            group="log",
            choices=FORMATS,
            default="auto",
        ),
    ] = "text"

    def listen(self, kind: str) -> ListenOptions:
        """Where exports of that kind listen."""
        return {"nbd": ListenOptions(self.nbd_socket, self.nbd_listen)}.get(kind, ListenOptions())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `virtiod run` to a parser."""
    cmdline.add_arguments(parser, Options)


def options_from(args: argparse.Namespace) -> Options:
    """The options that were given. Raises InvalidArgument, which names the option."""
    return cmdline.options_from(Options, args)
