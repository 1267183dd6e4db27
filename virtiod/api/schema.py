"""JSON schemas (draft 7) of what methods answer, from the types of their results.

Types: bool, int, float, str, object (any value), Literal of strings, enumerations of strings, list, dict by str, and
dataclasses as virtiod/core/described.py says. A dataclass is a component, to which others refer by its name.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import UNSET, UnsetType

from virtiod.core.described import Member

Schema = dict[str, object]

REFERENCE = "#/components/schemas/"
_SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema_of(hint: object) -> Schema:
    """The schema of a type. Raises TypeError for one that is none of those above."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _described(schema_of(args[0]), next(note for note in args[1:] if isinstance(note, Member)))
    if origin in {Union, UnionType}:
        (present,) = (one for one in args if one is not UnsetType)
        return schema_of(present)
    if origin is list:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is dict:
        values = schema_of(args[1])
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    if origin is Literal:
        return {"type": "string", "enum": list(args)}
    if hint is object:
        return {}
    if isinstance(hint, type) and hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return {"type": "string", "enum": [str(one) for one in hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return {"$ref": REFERENCE + _name(hint)}
    raise TypeError(f"{hint!r} has no form in JSON")


def components(hints: Iterable[object]) -> dict[str, Schema]:
    """The schemas of all dataclasses that these types are made of, by name. They name all members, in their order."""
    found: dict[str, type] = {}
    for hint in hints:
        _collect(hint, found)
    return {name: _object(kind) for name, kind in sorted(found.items())}


def _name(kind: type) -> str:
    return kind.__name__.removesuffix("Description")


def _described(schema: Schema, member: Member) -> Schema:
    if "$ref" in schema:
        schema = {"allOf": [schema]}  # beside a reference nothing counts
    if schema.get("type") in {"integer", "number"} and member.minimum is not None:
        schema["minimum"] = member.minimum
    schema["description"] = member.help
    if member.unit:
        schema["x-unit"] = member.unit
    return schema


@functools.cache
def _object(kind: type) -> Schema:
    hints = get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    return {
        "title": _name(kind),
        "description": " ".join((kind.__doc__ or "").split()),
        "type": "object",
        "properties": {field.name: schema_of(hints[field.name]) for field in fields},
        "required": [field.name for field in fields if field.default is not UNSET],
        "additionalProperties": False,
    }


def _collect(hint: object, found: dict[str, type]) -> None:
    for inner in get_args(hint):
        _collect(inner, found)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and found.get(_name(hint)) is not hint:
        if found.setdefault(_name(hint), hint) is not hint:
            raise TypeError(f"{hint} and {found[_name(hint)]} have the same name")
        for inner in get_type_hints(hint, include_extras=True).values():
            _collect(inner, found)
