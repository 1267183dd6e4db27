"""The RPC calls that create a manager's objects again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from virtiod.core.errors import AlreadyExists


@dataclass(frozen=True)
class SavedCall:
    """One call of a configuration. params are JSON values, by name."""

    method: str
    params: Mapping[str, object] = field(default_factory=dict)

    def entry(self) -> dict[str, object]:
        """The call as a configuration file has it."""
        return {"method": self.method, "params": dict(self.params)} if self.params else {"method": self.method}


def check_same(what: str, has: Mapping[str, object], asked: Mapping[str, object]) -> None:
    """Raises AlreadyExists unless something that exists already is as it is asked for. None asks for nothing.

    has, asked: its parameters as JSON values, by the same names.
    """
    differ = [
        f"{name} {json.dumps(has[name])}, not {json.dumps(value)}"
        for name, value in asked.items()
        if value not in {None, has[name]}
    ]
    if differ:
        raise AlreadyExists(f"{what} already exists, with {'; '.join(differ)}")


class Saver(Protocol):
    """An object with something that a configuration can create again."""

    def saved_calls(self) -> Iterable[SavedCall]:
        """The calls that create its present state, in the order in which they must be made."""
