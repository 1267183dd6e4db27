"""The command `virtiod-rpc`: a sub-command for each method, `call` for any, and `top`.

The methods come from methods.json, so that help needs no daemon. Options are spelt as in SPDK's rpc.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rpc_client.client import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Client, ClientError
from rpc_client.tables import render
from rpc_client.top import top

_TYPES = {"integer": int, "number": float, "string": str}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 when the call failed."""
    args = parser().parse_args(argv)
    try:
        with _client(args) as client:
            _run(client, args)
    except (ClientError, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has had enough
            return 0
        print(f"virtiod-rpc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="virtiod-rpc", description="Calls methods of a running virtiod.")
    found.add_argument(
        "-s",
        "--server",
        metavar="ADDRESS",
        default=DEFAULT_ADDRESS,
        help="Unix socket, or http(s) URL (default: %(default)s)",
    )
    found.add_argument(
        "-t",
        "--timeout",
        type=float,
        metavar="S",
        default=DEFAULT_TIMEOUT_S,
        help="of a call (default: %(default)g)",
    )
    found.add_argument("--json", action="store_true", help="print the exact result, in one line")
    found.add_argument("--credentials", metavar="FILE", help="file with USER:PASSWORD, for a URL")
    found.add_argument("--ca", metavar="FILE", help="certificates to trust, for a URL")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_top(commands.add_parser("top", help="Watch bdevs and pollers."))
    call = commands.add_parser("call", help="Call any method.")
    call.add_argument("method")
    call.add_argument("params", type=_json_object, nargs="?", help='as JSON, like {"name": "B0"}')
    for entry in json.loads(resources.files("rpc_client").joinpath("methods.json").read_text())["methods"]:
        _add_method(commands, entry)
    return found


def _add_top(command: argparse.ArgumentParser) -> None:
    command.add_argument("-i", "--interval", type=float, default=1.0, metavar="S", help="default: %(default)g")
    command.add_argument("-n", "--count", type=int, metavar="N", help="end after so many views")


def _add_method(commands: Any, entry: dict[str, Any]) -> None:
    summary = entry["doc"].partition("\n")[0]
    command = commands.add_parser(entry["name"], aliases=entry["aliases"], help=summary, description=entry["doc"])
    for name, schema in entry["params"]["properties"].items():
        _add_param(command, name, schema, entry["cli"][name], name in entry["params"]["required"])
    command.set_defaults(method=entry["name"], names=list(entry["params"]["properties"]))


def _add_param(
    command: argparse.ArgumentParser, name: str, schema: dict[str, Any], flags: list[str], required: bool
) -> None:
    # Not given means not sent: defaults are the daemon's.
    options: dict[str, Any] = {"help": schema["description"].replace("%", "%%"), "default": argparse.SUPPRESS}
    if "default" in schema:
        options["help"] += f" (default: {json.dumps(schema['default'])})"
    if schema["type"] == "boolean":
        options["action"] = argparse.BooleanOptionalAction
    elif schema["type"] == "array":
        item = _TYPES[schema["items"]["type"]]
        options["type"] = lambda text: [item(part) for part in text.split(",")]
        options["metavar"] = f"{name.upper()},..."
    else:
        options["type"] = _TYPES[schema["type"]]
        options["choices"] = schema.get("enum")
        if options["choices"] is None:
            options["metavar"] = name.upper()
    if flags[0].startswith("-"):
        command.add_argument(*flags, dest=f"param_{name}", required=required, **options)
    else:
        options["metavar"] = flags[0]
        command.add_argument(f"param_{name}", **options)


def _client(args: argparse.Namespace) -> Client:
    credentials = None
    if args.credentials:
        user, _, password = Path(args.credentials).read_text().strip().partition(":")
        credentials = (user, password)
    return Client(args.server, timeout_s=args.timeout, credentials=credentials, verify=args.ca or True)


def _run(client: Client, args: argparse.Namespace) -> None:
    if args.command == "top":
        top(client, args.interval, args.count)
        return
    if args.command == "call":
        method, params = args.method, args.params
    else:
        method = args.method
        params = {name: getattr(args, f"param_{name}") for name in args.names if hasattr(args, f"param_{name}")}
    # What is asked to take its time may.
    timeout_s = args.timeout + (params or {}).get("time_s", 0)
    result = client.call(method, params, timeout_s=timeout_s)
    text = json.dumps(result) if args.json else render(method, result)
    if text:
        print(text)
        sys.stdout.flush()


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
