"""docs/rpc.md."""

from __future__ import annotations

import errno

from rpc_client.description import Description, Method, Parameter
from virtiod.api.errors import INVALID_PARAMS
from virtiod.api.registry import Method as Registered
from virtiod.api.registry import State
from virtiod.core.names import MAX_CONTROLLER_NAME, MAX_NAME
from virtiod.rpc.methods import METHODS

_PREAMBLE = f"""# The RPC methods

This page is made from the methods themselves by `python -m virtiod.rpc.describe`. Requests are JSON-RPC 2.0 on the
Unix socket of `--rpc-socket`; names, parameters, results and error codes are those of SPDK's JSON-RPC where it has the
method.
`virtiod-rpc METHOD --help` shows how to call one from the command line, [client.md](client.md) how to call them from
Python. [rpc.discover](#rpcdiscover) answers with the same as an OpenRPC document, for the tools of other languages.

In the tables of results `a.b` is member b of the object a, and `a[].b` that of each object of the array a.

**Names.** Every parameter that is a name, of a controller, a bdev or an export, has 1 to {MAX_NAME} printable
characters. It must not hold control characters (as line feed and escape), characters that change the direction of text,
other characters that can't be seen, or halves of surrogate pairs; it may hold spaces, but not at its ends. A
controller's name has at most {MAX_CONTROLLER_NAME} characters, as those of its bdevs begin with it. In the OpenRPC
document the rule is a `pattern` with `minLength` and `maxLength`; characters beyond U+FFFF that can't be seen are
refused, too. What devices call themselves (aliases, serial numbers) is shown with such characters escaped.

**Identities.** The names, UUIDs and aliases of bdevs are all different: a name that another bdev has as its UUID or
alias is taken. A UUID may be written in capital letters. [Several paths to one
disk](operations.md#several-paths-to-one-disk) says what that means where a disk is seen twice.

Errors: -32700 not JSON (the connection is closed), -32600 not a request, -32601 no such method, -32602 parameters that
do not fit, -32603 internal error, -1 the method can't be called now, and -errno with the cause as the message (-13,
EACCES, also when it needs the role admin). -32001: the call was made, all of it, but the file of `--state` could not be
written, so that a restart would undo it; a call that could be saved later saves it, too. Methods whose parameters are
answered with -32603 when they do not fit, as SPDK does, say so.
"""


def page(description: Description) -> str:
    """Its content."""
    sections = (_section(description, method, METHODS[method.name]) for method in description.methods)
    return "\n".join([_PREAMBLE, *sections])


def _section(description: Description, method: Method, registered: Registered) -> str:
    lines = [f"## {method.name}", "", registered.doc, "", *_when(registered)]
    if method.parameters:
        lines += ["| parameter | type | |", "|---|---|---|"]
        lines += [_row(param) for param in method.parameters] + [""]
    lines += [*_result(description, method), ""]
    if registered.errors:
        errors = sorted(registered.errors.items(), reverse=True)
        lines += [f"Errors: {'; '.join(_error(*one) for one in errors)}.", ""]
    return "\n".join(lines)


def _when(method: Registered) -> list[str]:
    """What else is to know of calling it."""
    lines: list[str] = []
    if method.aliases:
        lines += [f"Also called {', '.join(method.aliases)}.", ""]
    if method.states != State.RUNTIME:
        when = "at any time" if method.states == State.ANY else "only before initialisation (`--wait-for-rpc`, or `-c`)"
        lines += [f"Can be called {when}.", ""]
    if method.reads:
        unless = " unless it is given " + " or ".join(method.changing) if method.changing else ""
        lines += [f"Changes nothing{unless}: the role read-only may call it.", ""]
    if method.foreign:
        lines += ["Takes any further parameters, too. Configuration files leave it out.", ""]
    if method.bad_params != INVALID_PARAMS:
        lines += [f"Parameters that do not fit are answered with {method.bad_params}.", ""]
    return lines


def _row(param: Parameter) -> str:
    return f"| {param.name} | {param.type} | {'**required**; ' if param.required else ''}{param.help} |"


def _result(description: Description, method: Method) -> list[str]:
    lines = [f"Result: {method.result}{': ' if method.result.help else ''}{method.result.help}."]
    rows = [
        f"| {name} | {member.type} | {'' if member.required else '*optional*; '}{member.type.help} |"
        for name, member in description.rows(method.result)
    ]
    return [*lines, "", "| member | type | |", "|---|---|---|", *rows] if rows else lines


def _error(code: int, meaning: str) -> str:
    name = f" ({errno.errorcode[-code]})" if -code in errno.errorcode and code < -1 else ""
    return f"{code}{name} {meaning}"
