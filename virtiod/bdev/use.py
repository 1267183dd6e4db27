"""Who uses a bdev, and for what: its claims.

Nothing is booked: each holder of a bdev says how it uses it whenever somebody asks, from what it knows itself (which
clients are connected, which loads run). So a claim ends with what it is about, however that ends.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 3  # clients, and uses, that a message names


class Access(enum.StrEnum):
    """What a holder may do with a bdev now. none: it has it open, for nobody yet."""

    NONE = "none"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Use:
    """One holder of a bdev. kind: "load", or the kind of an export. title: of the kind, for people.

    name: of the export, or the load's pattern. clients: who uses it through the holder. read_only: the holder refuses
    writes, and relies on nobody else's. exclusive: it writes what would be garbage to others, so nobody else may begin.
    """

    kind: str
    title: str
    name: str
    access: Access
    clients: Sequence[str] = ()
    read_only: bool = False
    exclusive: bool = False

    def __str__(self) -> str:
        how = "to write" if self.access is Access.WRITE else "to read"
        of = f" of {some(self.clients)}" if self.clients else ""
        return f"{self.title} {self.name}{of} ({how})"


def in_use(uses: Iterable[Use]) -> list[Use]:
    """Those of them that use the bdev now."""
    return [use for use in uses if use.access is not Access.NONE]


def named(uses: Sequence[Use]) -> str:
    """They, for messages."""
    return some(list(map(str, uses)))


def against_writing(uses: Sequence[Use]) -> str:
    """Why nobody should write garbage to a bdev of these uses: "in use by ..."; "" if nothing speaks against it."""
    if users := in_use(uses):
        return f"in use by {named(users)}"
    if read_only := [use for use in uses if use.read_only]:
        return f"exported read-only by {', '.join(f'{use.title} {use.name}' for use in read_only[:SHOWN])}"
    return ""


def exclusive(uses: Iterable[Use]) -> Use | None:
    """The one that lets nobody else begin."""
    return next((use for use in uses if use.exclusive), None)


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
