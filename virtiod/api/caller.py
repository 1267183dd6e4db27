"""The callers of methods, and what they may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """read-only: methods that change nothing. admin: all."""

    READ_ONLY = "read-only"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """A caller. at: the address that it calls from, if that is not in the name."""

    name: str
    role: Role
    at: str = ""

    def __str__(self) -> str:
        return f"{self.name} at {self.at} ({self.role.value})" if self.at else f"{self.name} ({self.role.value})"
