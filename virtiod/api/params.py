"""Typed parameters: a function's signature as a schema, and the check of what a client sent against it.

A method says `name: Annotated[str, Name("name of the bdev", cli="-b/--name")]`; the JSON schema, the documentation,
the command-line option and the error messages all come from that. Types: str, bool, int, float, Literal of
strings, and list of str or int. A parameter with a default is optional.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from virtiod.core import names

MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1

_JSON_TYPES: dict[object, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ARTICLES = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}


class ParamError(ValueError):
    """What the client sent is not valid; the message names the parameter, and so does `param`."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Arg:
    """What a parameter's type does not say. `cli` is "-b/--name", or "name" for a positional argument."""

    help: str
    cli: str = ""
    minimum: int = 0
    maximum: int = MAX_UINT64


@dataclass(frozen=True)
class Name(Arg):
    """Of a parameter that is a name, or a list of names: virtiod/core/names.py has their rule."""

    longest: int = names.MAX_NAME  # characters


@dataclass(frozen=True)
class Param:
    name: str
    type: str  # of JSON
    items: str  # type of an array's elements, else ""
    choices: tuple[str, ...]
    required: bool
    default: object
    arg: Arg

    def check(self, value: object) -> None:
        """Raises ParamError unless the value is valid."""
        if self.type == "array":
            if not isinstance(value, list):
                raise ParamError(f"'{self.name}' must be an array, not {_kind(value)}", self.name)
            for index, item in enumerate(value):
                self._check_one(f"{self.name}[{index}]", self.items, item)
        else:
            self._check_one(self.name, self.type, value)

    def _check_one(self, label: str, wanted: str, value: object) -> None:
        found = _json_type(value)
        if found != wanted and not (wanted == "number" and found == "integer"):
            raise ParamError(f"'{label}' must be {_article(wanted)}, not {_kind(value)}", self.name)
        if isinstance(value, str):
            if why := self._text_problem(value):
                raise ParamError(f"'{label}' {why}", self.name)
        elif wanted == "boolean":
            return
        elif isinstance(value, int | float) and not self.arg.minimum <= value <= self.arg.maximum:
            bounds = f"from {self.arg.minimum} to {self.arg.maximum}"
            raise ParamError(f"'{label}' must be {bounds}, not {value}", self.name)

    def _text_problem(self, value: str) -> str:
        """What it must be or must not; "" if it is valid."""
        if "\0" in value:
            return "must not hold a NUL character"
        if _SURROGATE.search(value):
            return f"must not hold lone surrogates: {names.quoted(value)}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {value[:64]!r}"
        return names.problem(value, self.arg.longest) if isinstance(self.arg, Name) else ""

    def schema(self) -> dict[str, object]:
        """The JSON schema of its values."""
        one: dict[str, object] = {"type": self.items or self.type}
        if isinstance(self.arg, Name):
            one |= {"minLength": 1, "maxLength": self.arg.longest, "pattern": names.PATTERN}
        if self.choices:
            one["enum"] = list(self.choices)
        if one["type"] in {"integer", "number"}:
            one["minimum"], one["maximum"] = self.arg.minimum, self.arg.maximum
        described: dict[str, object] = {"type": "array", "items": one} if self.type == "array" else one
        if not self.required and self.default is not None:
            described["default"] = list(self.default) if isinstance(self.default, tuple) else self.default
        return described


def params_of(function: Callable[..., object]) -> tuple[tuple[type, ...], tuple[Param, ...]]:
    """What a method needs of the daemon, by type, and its parameters: those that an Arg() describes.

    What it needs comes first. Raises TypeError for a parameter that neither is a class nor has an Arg().
    """
    hints = get_type_hints(function, include_extras=True)
    needs: list[type] = []
    params: list[Param] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and hint not in _JSON_TYPES and not params:
            needs.append(hint)
        else:
            params.append(_param(parameter, hint))
    return tuple(needs), tuple(params)


def check_params(params: tuple[Param, ...], given: Mapping[str, object]) -> None:
    known = {param.name: param for param in params}
    for name, value in given.items():
        if name not in known:
            accepted = ", ".join(known) or "none"
            raise ParamError(f"unknown parameter {name[:64]!r} (known: {accepted})", name)
        known[name].check(value)
    for param in params:
        if param.required and param.name not in given:
            raise ParamError(f"missing parameter '{param.name}'", param.name)


def _param(parameter: inspect.Parameter, hint: object) -> Param:
    annotated, arg = get_args(hint)[:2] if get_origin(hint) is Annotated else (hint, None)
    if not isinstance(arg, Arg):
        raise TypeError(f"{parameter.name}: no Arg() describes it")
    kinds = [kind for kind in get_args(annotated) if kind is not type(None)]
    if get_origin(annotated) not in {list, Literal} and kinds:
        (annotated,) = kinds  # X | None
    choices: tuple[str, ...] = ()
    items = ""
    if get_origin(annotated) is Literal:
        choices, annotated = get_args(annotated), str
    if get_origin(annotated) is list:
        items = _JSON_TYPES[get_args(annotated)[0]]
    required = parameter.default is inspect.Parameter.empty
    return Param(
        name=parameter.name,
        type="array" if items else _JSON_TYPES[annotated],
        items=items,
        choices=choices,
        required=required,
        default=None if required else parameter.default,
        arg=arg,
    )


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return "array"
    return _JSON_TYPES.get(type(value), "object")


def _article(name: str) -> str:
    return _ARTICLES.get(name, f"a {name}")


def _kind(value: object) -> str:
    kind = _json_type(value)
    return f"{_article(kind)} ({str(value)[:64]!r})" if kind == "string" else _article(kind)
