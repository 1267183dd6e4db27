"""The command `virtiod-rpc`: a sub-command for each method, `call` for any, `top`, `save_config` and `load_config`.

The methods come from openrpc.json, so that help needs no daemon. Options are spelt as in SPDK's rpc.py.

What is in use is deleted after a question only, or with --force: users.py says what that is.

Exit status: 0 when all went well, 1 when the call failed, or I/O of a load did (of several hosts: on all), 2 for a
wrong command line, 3 when it failed on some of several hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rpc_client.client import DEFAULT_TIMEOUT_S, Client
from rpc_client.comments import without_comments
from rpc_client.config import calls_of, load_config, save_config
from rpc_client.description import Description, Method, Parameter, installed
from rpc_client.errors import ClientError, MethodError
from rpc_client.fleet import Host, Outcome, on_each, read_hosts
from rpc_client.loads import trouble_of
from rpc_client.places import DEFAULT_ADDRESS
from rpc_client.printing import printable_lines, show
from rpc_client.tables import as_json, render, render_each
from rpc_client.top import top
from rpc_client.url import Access
from rpc_client.users import ending

_CONFIG_CALLS = 10  # a configuration takes several calls, each with a deadline of its own
_ENDING_CALLS = 3  # so does the end of what may be in use
_RESULT = "result:"
_TYPES = {"integer": int, "number": float, "string": str}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = parser().parse_args(argv)
    try:
        hosts = [Host(address, address) for address in args.servers] + (read_hosts(args.hosts) if args.hosts else [])
        access = _access(args)
        if args.hosts or len(hosts) > 1:
            return _run_on_each(hosts, access, args)
        address = hosts[0].address if hosts else DEFAULT_ADDRESS
        with Client(address, timeout_s=args.timeout, access=access) as client:
            return _run(client, args)
    except _NotShown as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would try again
        if isinstance(error.__cause__, BrokenPipeError):
            return 0  # the reader has closed the pipe
        _complain(f"standard output: {error.__cause__}")
        return 1
    except (ClientError, OSError, ValueError) as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


class _NotShown(Exception):
    """Standard output took not all; the cause says why."""


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        show(printable_lines(f"virtiod-rpc: {message}"), sys.stderr)


def _show(text: str) -> None:
    try:
        show(text, sys.stdout)
    except OSError as error:
        raise _NotShown from error


def _columns() -> int | None:
    """Those of the terminal that standard output is; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="virtiod-rpc", description="Calls methods of a running virtiod.")
    found.add_argument(
        "-s",
        "--server",
        "--url",
        dest="servers",
        action="append",
        metavar="ADDRESS",
        default=[],
        help=f"Unix socket or http(s) URL of the daemon; repeat it for more daemons (default: {DEFAULT_ADDRESS})",
    )
    found.add_argument("--hosts", metavar="FILE", help="file with more addresses, one per line: [NAME] ADDRESS")
    found.add_argument(
        "-t",
        "--timeout",
        type=float,
        metavar="S",
        default=DEFAULT_TIMEOUT_S,
        help="seconds to wait for an answer (default: %(default)g)",
    )
    found.add_argument("--json", action="store_true", help="print the exact result as JSON, on one line")
    _add_access(found.add_argument_group("access to URLs"))
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_top(commands.add_parser("top", help="Watch controllers, bdevs and pollers."))
    save = commands.add_parser("save_config", help="Print the configuration, for load_config and `virtiod -c`.")
    save.add_argument("-f", "--file", metavar="FILE", help="write it to this file")
    load = commands.add_parser("load_config", help="Make the calls of a saved configuration.")
    load.add_argument("-f", "-j", "--file", metavar="FILE", help="read it from this file (default: standard input)")
    call = commands.add_parser("call", help="Call a method by its name.")
    call.add_argument("method")
    call.add_argument("params", type=_json_object, nargs="?", help='parameters as JSON, for example {"name": "B0"}')
    description = installed()
    for entry in description.methods:
        _add_method(commands, description, entry)
    return found


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--token-file", metavar="FILE", help="file that holds the token, or a line ROLE NAME TOKEN")
    group.add_argument("--credentials", metavar="FILE", help="file that holds USER:PASSWORD, instead of a token")
    group.add_argument("--ca-file", metavar="FILE", help="authorities to trust, as PEM (default: the system's)")
    group.add_argument("--cert", metavar="FILE", help="certificate of this client")
    group.add_argument("--key", metavar="FILE", help="key of the certificate (default: in the same file)")


def _add_top(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-i",
        "--interval",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds between two views (default: %(default)g)",
    )
    command.add_argument("-n", "--count", type=int, metavar="N", help="stop after N views")


class _Help(argparse.HelpFormatter):
    """Leaves a list of members as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_RESULT) else super()._fill_text(text, width, indent)


def _add_method(commands: Any, description: Description, method: Method) -> None:
    command: argparse.ArgumentParser = commands.add_parser(
        method.name,
        aliases=method.aliases,
        help=method.summary,
        description=f"{method.summary}\n\n{method.text}",
        epilog=_result(description, method),
        formatter_class=_Help,
    )
    for param in method.parameters:
        _add_param(command, param)
    if method.ends:
        command.add_argument("--force", action="store_true", help="do not ask, even if clients or loads use it")
    command.set_defaults(method=method.name, names=[param.name for param in method.parameters], ends=method.ends)


def _result(description: Description, method: Method) -> str:
    lines = [f"{_RESULT} {method.result}{': ' if method.result.help else ''}{method.result.help}"]
    for path, member in description.rows(method.result):
        name = f"  {'  ' * path.count('.')}{member.name}"
        optional = "" if member.required else ", optional"
        lines.append(f"{name:<30}  {member.type.help} ({member.type}{optional})")
    return "\n".join(lines)


def _add_param(command: argparse.ArgumentParser, param: Parameter) -> None:
    # Not given means not sent: defaults are the daemon's.
    options: dict[str, Any] = {"help": param.help.replace("%", "%%"), "default": argparse.SUPPRESS}
    if param.type.kind == "boolean":
        options["action"] = argparse.BooleanOptionalAction
    elif param.type.items:
        item = _TYPES[param.type.items.kind]
        options["type"] = lambda text: [item(part) for part in text.split(",")]
        options["metavar"] = f"{param.name.upper()},..."
    else:
        options["type"] = _TYPES[param.type.kind]
        options["choices"] = param.type.choices or None
        if not param.type.choices:
            options["metavar"] = param.name.upper()
    if param.flags[0].startswith("-"):
        command.add_argument(*param.flags, dest=f"param_{param.name}", required=param.required, **options)
    else:
        options["metavar"] = param.flags[0]
        command.add_argument(f"param_{param.name}", **options)


def _access(args: argparse.Namespace) -> Access:
    """The access that the options describe. Raises OSError or ValueError."""
    token = credentials = None
    if args.token_file:
        words = _secret(args.token_file).split()
        if len(words) not in {1, 3}:
            raise ValueError(f"{args.token_file}: must hold a token, or a line ROLE NAME TOKEN")
        token = words[-1]
    if args.credentials:
        user, _, password = _secret(args.credentials).strip().partition(":")
        credentials = (user, password)
    return Access(token, credentials, args.ca_file, args.cert, args.key)


def _secret(path: str) -> str:
    mode = Path(path).stat().st_mode
    if mode & 0o077:
        raise ValueError(f"{path}: mode {mode & 0o777:04o} lets others use it (chmod 600 {path})")
    return Path(path).read_text()


def _run(client: Client, args: argparse.Namespace) -> int:
    """Returns the exit status."""
    if args.command == "top":
        try:
            top(client, args.interval, args.count)
        except OSError as error:  # those of connections are ClientErrors
            raise _NotShown from error
        return 0
    name, work, _ = _work(args, _agreed)
    result = work(client)
    _print(args, name, result)
    trouble = trouble_of(name, result)
    if trouble:
        _complain(f"{name}: {trouble}")
    return 1 if trouble else 0


def _agreed(question: str) -> bool:
    """Whether the person at the terminal says yes; no when there is none."""
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    show(printable_lines(f"{question} [y/N] "), sys.stderr, end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _run_on_each(hosts: list[Host], access: Access, args: argparse.Namespace) -> int:
    if args.command == "top" or (args.command == "save_config" and args.file):
        raise ValueError(
            f"{args.command} {'' if args.command == 'top' else '--file '}takes one host at a time: give one address"
        )
    name, work, timeout_s = _work(args, lambda _: False)
    outcomes = on_each(hosts, lambda host: Client(host.address, timeout_s=args.timeout, access=access), work, timeout_s)
    failed = [one for one in outcomes if one.error is not None]
    troubled = [one for one in outcomes if one.error is None and trouble_of(name, one.result)]
    if args.json:
        text = as_json([_as_json(one) for one in outcomes])
    else:
        results = [(one.host.name, one.result) for one in outcomes if one.error is None]
        text = render_each(name, results, [(one.host.name, str(one.error)) for one in failed], _columns())
    _show(text)
    for one in troubled:
        _complain(f"{one.host.name}: {name}: {trouble_of(name, one.result)}")
    count = len(failed) + len(troubled)
    return 0 if not count else 1 if count == len(outcomes) else 3


def _as_json(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = {"host": outcome.host.name, "address": outcome.host.address}
    if outcome.error is None:
        return {**found, "result": outcome.result}
    code = outcome.error.code if isinstance(outcome.error, MethodError) else None
    return {**found, "error": {"code": code, "message": str(outcome.error)}}


def _work(args: argparse.Namespace, agreed: Callable[[str], bool]) -> tuple[str, Callable[[Client], Any], float]:
    """The name of what is asked for, how to do it on a client, and how long that may take.

    agreed: asks whether to end what is in use.
    """
    if args.command == "save_config":
        return "save_config", save_config, args.timeout * _CONFIG_CALLS
    if args.command == "load_config":
        document = json.loads(without_comments(_input(args.file)))
        calls_of(document)
        return "load_config", lambda client: load_config(client, document).lines() or True, args.timeout * _CONFIG_CALLS
    if args.command == "call":
        method, params = args.method, args.params or {}
    else:
        method = args.method
        params = {name: getattr(args, f"param_{name}") for name in args.names if hasattr(args, f"param_{name}")}
    if getattr(args, "ends", ""):
        ask = None if args.force else agreed
        return (
            method,
            lambda client: ending(client, args.ends, method, params, ask, _complain),
            (args.timeout * _ENDING_CALLS),
        )
    # What is asked to take its time may.
    timeout_s = args.timeout + params.get("time_s", 0)
    return method, lambda client: client.call(method, params, timeout_s=timeout_s), timeout_s


def _print(args: argparse.Namespace, name: str, result: Any) -> None:
    to_file = args.command == "save_config" and args.file
    text = as_json(result) if args.json else render(name, result, None if to_file else _columns())
    if to_file:
        Path(args.file).write_text(text + "\n")
    elif text:
        _show(text)


def _input(file: str | None) -> str:
    """JSON from a file, or from standard input: UTF-8, whatever the locale."""
    if file:
        return Path(file).read_text(encoding="utf-8")
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    return sys.stdin.buffer.read().decode()


def _json_object(text: str) -> dict[str, Any]:
    try:
        params = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(params, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return params


if __name__ == "__main__":
    sys.exit(main())
