"""What happened in a run, in one order: requests sent and answered, kills.

The harness is one thread, so that one counter orders all that it sees. A request's `sent` is counted before its bytes
go out, its `ended` after its reply has come in, and a kill lasts from before the signal until the process has exited:
what lies between two of these times in truth lies between them here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

NEVER = 1 << 62  # later than anything


class Change(enum.StrEnum):
    """What a request does to blocks."""

    WRITE = "write"
    ZEROES = "write zeroes"
    TRIM = "trim"


@dataclass(eq=False, slots=True, kw_only=True)
class Request:
    """A request of a user, by the user's own number. error is NBD's; 0 also while there is no reply."""

    user: int
    number: int
    sent: int
    ended: int = NEVER
    error: int = 0

    @property
    def acknowledged(self) -> bool:
        return self.ended != NEVER and not self.error

    def name(self) -> str:
        return f"user {self.user} #{self.number}"


@dataclass(eq=False, slots=True, kw_only=True)
class Read(Request):
    """epoch: of its sending, see Oracle."""

    first: int
    count: int
    epoch: int


@dataclass(eq=False, slots=True, kw_only=True)
class Flush(Request):
    def name(self) -> str:
        return f"{Request.name(self)}: flush"


@dataclass(eq=False, slots=True, kw_only=True)
class Write(Request):
    """A request that changes blocks first to first + count - 1.

    stable: what made it so, a flush, or with FUA the write itself. late: the target was killed after it was sent and
    before that flush ended. told: a flush failed after such a kill, so that its loss is known.
    lost: it was not there when it had to be, or (where writes are not kept) when it could have been.
    """

    kind: Change
    first: int
    count: int
    fua: bool = False
    stable: Request | None = None
    late: bool = False
    told: bool = False
    lost: bool = False

    def name(self) -> str:
        last = self.first + self.count - 1
        blocks = f"block {self.first}" if self.count == 1 else f"blocks {self.first}-{last}"
        return f"{Request.name(self)}: {self.kind}{' with FUA' if self.fua else ''} of {blocks}"


@dataclass(eq=False, slots=True)
class Kill:
    began: int
    ended: int = NEVER
