"""The configuration file, which is a list of RPC calls by subsystem, in SPDK's format:

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": "...", "params": {...}}]}]}

An entry of "config" may also be an array of calls (a batch). What RPC can do, the file can do. Comments are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpc_client.comments import without_comments
from virtiod.core.errors import InvalidArgument

MAX_FILE_BYTES = 16 << 20

Identity = tuple[str, str]  # of a call: see identity()
Place = tuple[str | int, ...]  # the way into a document: member names and indexes

NEWLINE = "\n"
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Source:
    """The origin of a document. Without its text, which has no comments, places have no line."""

    name: str
    text: str = ""

    def at(self, place: Place) -> str:
        """ "FILE:LINE:COLUMN: subsystems[0].config[3].params.traddr" """
        line = ""
        if self.text:
            offset = find(self.text, place)
            before = self.text[:offset]
            line = f":{before.count(NEWLINE) + 1}:{offset - before.rfind(NEWLINE)}"
        return f"{self.name}{line}: {_spell(place)}"


@dataclass(frozen=True)
class Call:
    """One call of a file."""

    source: Source
    place: Place
    subsystem: str
    method: str
    params: dict[str, Any]

    @property
    def where(self) -> str:
        return self.source.at(self.place)

    def where_param(self, name: str) -> str:
        """The place of this parameter; the place of the call, if it isn't given."""
        return self.source.at((*self.place, "params", name)) if name in self.params else self.where

    @property
    def identity(self) -> Identity:
        """Two calls of the same identity are about the same thing."""
        return identity(self.method, self.params)


def identity(method: str, params: Mapping[str, object]) -> Identity:
    """The method, and the name of the object that it is about, if there can be several."""
    return method, str(params.get("name") or params.get("bdev_name") or "")


def read_config(path: str) -> list[Call]:
    """The calls of a file in their order. Raises InvalidArgument naming the line, and the path inside the file."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidArgument(f"{path}: longer than {MAX_FILE_BYTES} bytes")
        text = without_comments(raw.decode())
        return parse_config(json.loads(text), Source(path, text))
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: {error}") from error


def parse_config(document: Any, source: Source) -> list[Call]:
    """Validates the document's form. Unknown members are ignored, as SPDK does."""
    calls: list[Call] = []
    subsystems = _member(document, "subsystems", list, source, ())
    for number, subsystem in enumerate(subsystems):
        place: Place = ("subsystems", number)
        name = _member(subsystem, "subsystem", str, source, place)
        if subsystem.get("config") is None:
            continue
        for index, entry in enumerate(_member(subsystem, "config", list, source, place)):
            calls += _entry(entry, name, source, (*place, "config", index))
    return calls


def _entry(entry: Any, subsystem: str, source: Source, place: Place) -> Iterator[Call]:
    if isinstance(entry, list):
        for index, one in enumerate(entry):
            yield _call(one, subsystem, source, (*place, index))
    else:
        yield _call(entry, subsystem, source, place)


def _call(entry: Any, subsystem: str, source: Source, place: Place) -> Call:
    name = _member(entry, "method", str, source, place)
    unknown = [member for member in entry if member not in {"method", "params"}]
    if unknown:
        raise InvalidArgument(f"{source.at((*place, unknown[0]))}: unknown member {unknown[0]!r}")
    params = entry.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidArgument(f"{source.at((*place, 'params'))}: 'params' must be an object")
    return Call(source, place, subsystem, name, params)


def _member(value: Any, name: str, kind: type, source: Source, place: Place) -> Any:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{source.at(place)}: must be an object")
    if name not in value:
        raise InvalidArgument(f"{source.at(place)}: has no '{name}'")
    if not isinstance(value[name], kind):
        kind_name = "an array" if kind is list else "a string"
        raise InvalidArgument(f"{source.at((*place, name))}: '{name}' must be {kind_name}")
    return value[name]


def _spell(place: Place) -> str:
    spelt = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return spelt.removeprefix(".") or "top level"


def find(text: str, place: Place) -> int:
    """The offset of the value at `place` in a JSON text, which must be valid and have it."""
    offset = _skip(text, 0)
    for step in place:
        offset = _skip(text, offset + 1)
        offset = _element(text, offset, step) if isinstance(step, int) else _named(text, offset, step)
    return offset


def _element(text: str, offset: int, index: int) -> int:
    for _ in range(index):
        offset = _skip(text, _end(text, offset)) + 1  # beyond the comma
        offset = _skip(text, offset)
    return offset


def _named(text: str, offset: int, name: str) -> int:
    """The offset of the value of a name. Of equal names the last one counts, as for json.loads()."""
    found = -1
    while text[offset] == '"':
        key, offset = _DECODER.raw_decode(text, offset)
        offset = _skip(text, _skip(text, offset) + 1)  # beyond the colon
        if key == name:
            found = offset
        offset = _skip(text, _end(text, offset))
        if text[offset] == ",":
            offset = _skip(text, offset + 1)
    if found < 0:
        raise KeyError(name)
    return found


def _end(text: str, offset: int) -> int:
    """The offset after the value that begins at this one."""
    end: int = _DECODER.raw_decode(text, offset)[1]
    return end


def _skip(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    assert match is not None  # it matches nothing, too
    return match.end()
