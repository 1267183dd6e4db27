"""The methods as data: rpc_client/methods.json for the client's command line, docs/rpc.md for people.

python -m virtiod.rpc.describe     # writes both; a test fails when they are out of date
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from virtiod.api.params import Param, schema_of
from virtiod.api.registry import Method, State
from virtiod.rpc.methods import METHODS

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "rpc_client" / "methods.json"
DOCUMENT = ROOT / "docs" / "rpc.md"

_PREAMBLE = """# The RPC methods

This page is made from the methods themselves by `python -m virtiod.rpc.describe`. Requests are JSON-RPC 2.0 on the
Unix socket of `--rpc-socket`; names, parameters, results and error codes are those of SPDK's JSON-RPC where it has the
method.
`virtiod-rpc METHOD --help` shows how to call one from the command line.

Errors: -32700 not JSON (the connection is closed), -32600 not a request, -32601 no such method, -32602 parameters that
do not fit, -32603 internal error, -1 the method can't be called now, and -errno with the cause as the message (-13,
EACCES, also when it needs the role admin). Methods whose parameters are answered with -32603 when they do not fit, as
SPDK does, say so.
"""


def table() -> str:
    """The content of methods.json."""
    return json.dumps({"methods": [_entry(method) for method in METHODS.values()]}, indent=1) + "\n"


def document() -> str:
    """The content of docs/rpc.md."""
    return "\n".join([_PREAMBLE, *(_section(method) for method in METHODS.values())])


def _entry(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "aliases": list(method.aliases),
        "states": [state.name.lower() for state in State if state in method.states and state.name],
        "doc": method.doc,
        "params": schema_of(method.params),
        "cli": {param.name: _flags(param) for param in method.params},
    }


def _flags(param: Param) -> list[str]:
    """ "-b/--name" as its parts; one part without a dash for a positional argument."""
    return param.arg.cli.split("/") if param.arg.cli else [f"--{param.name.replace('_', '-')}"]


def _section(method: Method) -> str:
    lines = [f"## {method.name}", "", method.doc, ""]
    if method.aliases:
        lines += [f"Also called {', '.join(method.aliases)}.", ""]
    if method.states != State.RUNTIME:
        when = "at any time" if method.states == State.ANY else "only before initialisation (`--wait-for-rpc`, or `-c`)"
        lines += [f"Can be called {when}.", ""]
    if method.reads:
        unless = " unless it is given " + " or ".join(method.changing) if method.changing else ""
        lines += [f"Changes nothing{unless}: the role read-only may call it.", ""]
    if method.bad_params != -32602:
        lines += [f"Parameters that do not fit are answered with {method.bad_params}.", ""]
    if method.params:
        lines += ["| parameter | type | |", "|---|---|---|"]
        lines += [_row(param) for param in method.params] + [""]
    return "\n".join(lines)


def _row(param: Param) -> str:
    kind = " or ".join(f'"{choice}"' for choice in param.choices) or param.items or param.type
    if param.type == "array":
        kind = f"array of {kind}"
    need = "**required**; " if param.required else ""
    default = "" if param.required or param.default is None else f" (default: {json.dumps(param.default)})"
    return f"| {param.name} | {kind} | {need}{param.arg.help}{default} |"


if __name__ == "__main__":
    TABLE.write_text(table())
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
