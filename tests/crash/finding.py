"""What a run can find."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Verdict(enum.StrEnum):
    """The first five are the oracle's on what was read, see there; the others are the run's."""

    LOST_STABLE = "lost-stable"
    LOST_KEPT = "lost-kept"
    LIED = "lied"
    STALE = "stale"  # an older value, and no kill explains it
    DOUBLED = "doubled"  # the same, after a read had found the newer one: a write that happened again
    TORN = "torn"
    FOREIGN = "foreign"  # nothing that was ever written to this block
    FAILED = "failed"  # a request was answered with an error that nothing explains
    ANSWERED_TWICE = "answered-twice"
    HUNG = "hung"
    TARGET = "target"  # it ended by itself, or its image is broken
    LEFT = "left"  # something of the run stayed in the system
    OTHER = "other-export"  # one of another bdev suffered too


@dataclass(eq=False)
class Finding:
    """text: one sentence. blocks: where. history: of the first of them, a line for each event. kill: after which."""

    verdicts: tuple[Verdict, ...]
    text: str
    blocks: list[int] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    kill: int = 0
