"""The rules that the driver of kept_writes.pml keeps, and the bounds within which one that breaks them is found out."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rule:
    """without: the #define that takes the rule away. breaks: the assertion that must fail then."""

    without: str
    says: str
    breaks: str
    bounds: dict[str, int] = field(default_factory=dict)


def _bounds(ios: int, **others: int) -> dict[str, int]:
    """The smallest that suffice: no fault but those that are named."""
    return {"IOS": ios, "DEATHS": 0, "SILENCES": 0, "TIMES": 0} | {name.upper(): n for name, n in others.items()}


RULES = (
    Rule("KEEP_NOTHING", "an acknowledged write is kept until it is stable", "register", _bounds(2, deaths=1)),
    Rule(
        "FLUSH_RELEASES_BY_END",
        "a flush releases what was acknowledged before it began, not before it ended",
        "register",
        _bounds(3, deaths=1),
    ),
    Rule("REPEAT_OUT_OF_ORDER", "kept writes are repeated in order", "register", _bounds(3, deaths=1)),
    Rule(
        "REPEAT_TOGETHER",
        "of kept writes that overlap, one is answered before the next is handed over: a device orders nothing",
        "register",
        _bounds(3, deaths=1),
    ),
    Rule("IN_FLIGHT_FIRST", "kept writes are repeated before what was in flight", "register", _bounds(3, deaths=1)),
    Rule("WAITING_FIRST", "what waited runs after all that is repeated", "register", _bounds(2, deaths=1)),
    Rule(
        "FUA_REPEATS_FLUSH",
        "a FUA write that is lost before its flush begins again with its write",
        "lie",
        _bounds(2, deaths=1),
    ),
    Rule("NO_WAIT", "nothing runs while an earlier epoch is possibly alive", "lie", _bounds(2, silences=1, times=1)),
    Rule(
        "ORDER_IS_ENOUGH",
        "a stop in order spares the repetition only if the same process is back",
        "register",
        _bounds(2, deaths=1, silences=1),
    ),
    Rule(
        "COMPARE_LAST_SESSION",
        "that another process came is not forgotten when the session with it ends before it carried I/O",
        "register",
        _bounds(2, deaths=1, silences=2),
    ),
    Rule(
        "REUSE_RING", "a session gets no ring that an epoch possibly alive may write", "memory", _bounds(1, silences=1)
    ),
    Rule(
        "FREE_AT_TIMEOUT",
        "the buffer of a timed-out I/O is in quarantine while its epoch is possibly alive",
        "memory",
        _bounds(1, silences=1),
    ),
    Rule(
        "QUARANTINE_FOR_EVER",
        "quarantine ends when the epoch is known to be dead",
        "balance",
        _bounds(1, deaths=1, silences=1),
    ),
    Rule(
        "ANSWER_TWICE", "what is to be repeated is not answered by the ring that was lost", "once", _bounds(1, deaths=1)
    ),
    Rule("NO_OWN_FLUSH", "the driver flushes when kept writes hold all buffers", "stuck", _bounds(2, buffers=1)),
    Rule(
        "NO_REPORT",
        "when writes that were not kept may be lost, the next flush of each user fails",
        "told",
        _bounds(3, keep=1, deaths=1),
    ),
)
