"""Who calls a method, and what they may do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """read-only: methods that change nothing. admin: all."""

    READ_ONLY = "read-only"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """`name` is how the log calls them."""

    name: str
    role: Role
