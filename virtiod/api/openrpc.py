"""Methods as an OpenRPC document (https://spec.open-rpc.org): for rpc.discover, and for the client's command line.

In addition to OpenRPC's members a method has x-aliases, x-states (startup, runtime), x-role (the least that may call
it) and, when only some values need the role admin, x-admin-params; x-foreign when it takes settings of what only SPDK
has, with any further parameters; x-ends ("bdev", "controller" or "export") when it deletes what its parameter name says
with all that uses it. A parameter has x-cli, its spellings on the command line. A number has x-unit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from virtiod import __version__
from virtiod.api.caller import Role
from virtiod.api.errors import INVALID_STATE, NOT_SAVED
from virtiod.api.params import Param
from virtiod.api.registry import Method, State
from virtiod.api.schema import Schema, components, schema_of

VERSION = "1.3.2"  # the newest that OpenRPC's own tools take
DONE = "true when it is done"


def document(methods: Iterable[Method]) -> Schema:
    """The document, as JSON."""
    methods = list(methods)
    return {
        "openrpc": VERSION,
        "info": {
            "title": "virtiod",
            "version": __version__,
            "description": "Virtio controllers driven from user space, as block devices.",
            "license": {"name": "Apache-2.0"},
        },
        "methods": [_method(method) for method in methods],
        "components": {"schemas": components(method.result for method in methods)},
    }


def errors_of(method: Method) -> dict[int, str]:
    """What each error code of the method means, without the codes that any request may be answered with."""
    found = {method.bad_params: "parameters that do not fit"}
    if method.states != State.ANY:
        found[INVALID_STATE] = "it can't be called now"
    if not method.reads or method.changing:
        found[-errno.EACCES] = "it needs the role admin"
        found[NOT_SAVED] = "it changed something, which could not be saved"
    for code, meaning in method.errors.items():
        found[code] = f"{found[code]}, or {meaning}" if code in found else meaning
    return found


def flags(param: Param) -> list[str]:
    """Its spellings on the command line; one without a dash for a positional argument."""
    return param.arg.cli.split("/") if param.arg.cli else [f"--{param.name.replace('_', '-')}"]


def _method(method: Method) -> Schema:
    description = method.doc.partition("\n")[2].strip()
    states = [state.name.lower() for state in State if state in method.states and state.name]
    role = Role.READ_ONLY if method.reads else Role.ADMIN
    return {
        "name": method.name,
        "tags": [{"name": method.family}],
        "summary": method.summary,
        **({"description": description} if description else {}),
        "paramStructure": "by-name",
        "params": [_param(param) for param in method.params],
        "result": _result(method),
        "errors": [{"code": code, "message": meaning} for code, meaning in sorted(errors_of(method).items())],
        "x-aliases": list(method.aliases),
        "x-states": states,
        "x-role": role.value,
        **({"x-admin-params": list(method.changing)} if method.changing else {}),
        **({"x-foreign": True} if method.foreign else {}),
        **({"x-ends": method.ends} if method.ends else {}),
    }


def _param(param: Param) -> Schema:
    return {
        "name": param.name,
        "description": param.arg.help,
        "required": param.required,
        "schema": param.schema(),
        "x-cli": flags(param),
    }


def _result(method: Method) -> Schema:
    schema = schema_of(method.result)
    if schema == {"type": "boolean"}:
        schema["description"] = DONE
    return {"name": "result", "required": True, "schema": schema}
