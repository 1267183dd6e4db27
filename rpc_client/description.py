"""The methods as openrpc.json describes them: for the command line, and for the files that are made from them.

It is an OpenRPC document (https://spec.open-rpc.org), as rpc.discover answers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

_REFERENCE = "#/components/schemas/"


@dataclass(frozen=True)
class Type:
    """kind: of JSON, "" for any value. items: of an array's elements, or of the values of an object with any names.

    object: the name of a described object. longest: characters of a name; 0 for what is none.
    """

    kind: str
    items: Type | None = None
    choices: tuple[str, ...] = ()
    object: str = ""
    help: str = ""
    unit: str = ""
    longest: int = 0

    def __str__(self) -> str:
        if self.kind == "array" and self.items:
            text = f"array of {self.items.kind or 'value'}s"
        elif self.items:
            text = f"object, {self.items.kind} by name"
        else:
            text = " or ".join(f'"{choice}"' for choice in self.choices) or self.kind
        return f"{text}, {self.unit}" if self.unit else text


@dataclass(frozen=True)
class Member:
    """A member of a described object. One that is not required may be absent."""

    name: str
    type: Type
    required: bool


@dataclass(frozen=True)
class Object:
    name: str
    summary: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Parameter:
    """flags: its spellings on the command line. default: as JSON, "" if there is none to name."""

    name: str
    type: Type
    required: bool
    flags: tuple[str, ...]
    default: str

    @property
    def help(self) -> str:
        longest = self.type.longest or (self.type.items.longest if self.type.items else 0)
        more = [f"1 to {longest} printable characters"] if longest else []
        more += [f"default: {self.default}"] if self.default else []
        return f"{self.type.help} ({'; '.join(more)})" if more else self.type.help


@dataclass(frozen=True)
class Method:
    """text: the rest of its documentation. errors: what each code means. foreign: it sets up what only SPDK has.

    ends: "bdev", "controller" or "export" if it deletes one, by the parameter name; else "".
    """

    name: str
    aliases: tuple[str, ...]
    summary: str
    text: str
    parameters: tuple[Parameter, ...]
    result: Type
    errors: dict[int, str]
    foreign: bool
    ends: str


@dataclass(frozen=True)
class Description:
    methods: tuple[Method, ...]
    objects: dict[str, Object]

    def rows(self, kind: Type, path: str = "") -> Iterator[tuple[str, Member]]:
        """Each member of a described object, or of those of an array, and theirs: "a.b" or "a[].b", and what it is."""
        if kind.kind == "array" and kind.items:
            yield from self.rows(kind.items, f"{path}[]" if path else "")
        for member in self.objects[kind.object].members if kind.object else ():
            name = f"{path}.{member.name}" if path else member.name
            yield name, member
            yield from self.rows(member.type, name)


def description_of(document: dict[str, Any]) -> Description:
    """The description in an OpenRPC document of a virtiod."""
    objects = {
        name: Object(
            name,
            schema["description"],
            tuple(
                Member(member, _type(found), member in schema["required"])
                for member, found in schema["properties"].items()
            ),
        )
        for name, schema in document["components"]["schemas"].items()
    }
    return Description(tuple(_method(entry) for entry in document["methods"]), objects)


def installed() -> Description:
    """The description of the virtiod that this client came with."""
    return description_of(json.loads(resources.files("rpc_client").joinpath("openrpc.json").read_text()))


def _method(entry: dict[str, Any]) -> Method:
    return Method(
        entry["name"],
        tuple(entry["x-aliases"]),
        entry["summary"],
        entry.get("description", ""),
        tuple(_parameter(param) for param in entry["params"]),
        _type(entry["result"]["schema"]),
        {error["code"]: error["message"] for error in entry["errors"]},
        entry.get("x-foreign", False),
        entry.get("x-ends", ""),
    )


def _parameter(param: dict[str, Any]) -> Parameter:
    schema = param["schema"]
    default = json.dumps(schema["default"]) if "default" in schema else ""
    kind = _type({**schema, "description": param["description"]})
    return Parameter(param["name"], kind, param["required"], tuple(param["x-cli"]), default)


def _type(schema: dict[str, Any]) -> Type:
    reference = schema.get("$ref") or schema.get("allOf", [{}])[0].get("$ref", "")
    items = schema.get("items", schema.get("additionalProperties"))
    return Type(
        "object" if reference else schema.get("type", ""),
        _type(items) if items else None,
        tuple(schema.get("enum", ())),
        reference.removeprefix(_REFERENCE),
        schema.get("description", ""),
        schema.get("x-unit", ""),
        schema.get("maxLength", 0),
    )
