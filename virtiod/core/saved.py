"""What a manager says of the objects that it has: the RPC calls that would make them again."""

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
        """As it stands in a configuration file."""
        return {"method": self.method, "params": dict(self.params)} if self.params else {"method": self.method}


class Saver(Protocol):
    """Whoever has something that a configuration can make again."""

    def saved_calls(self) -> Iterable[SavedCall]:
        """The calls that bring it into its present state, in the order in which they must be made."""
