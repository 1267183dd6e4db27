"""The RPC calls that create a manager's objects again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class SavedCall:
    """One call of a configuration. params are JSON values, by name."""

    method: str
    params: Mapping[str, object] = field(default_factory=dict)

    def entry(self) -> dict[str, object]:
        """The call as a configuration file has it."""
        return {"method": self.method, "params": dict(self.params)} if self.params else {"method": self.method}


class Saver(Protocol):
    """An object with something that a configuration can create again."""

    def saved_calls(self) -> Iterable[SavedCall]:
        """The calls that create its present state, in the order in which they must be made."""
