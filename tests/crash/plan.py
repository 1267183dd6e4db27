"""What a run does, drawn from its seed: how virtiod and the target are set up, what I/O there is, when the target dies.

The same seed gives the same plan and the same I/O of each user; what meets what in between is up to the machine.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.crash.stamp import BLOCK

KILLS = 5  # of a run, the last one quiet
DISK_BLOCKS = 4096
MAX_REQUEST = 32  # blocks, but for a few


class When(enum.StrEnum):
    """The moment of a kill."""

    SENT = "after so many requests were sent"
    ANSWERED = "after so many answers"
    FLUSH = "after so many flushes or writes with FUA were sent"
    STARTED = "so long after the target was started again"
    CONNECTED = "so long after virtiod connected again"
    QUIET = "when nothing is in flight"


BEFORE_IO = (When.STARTED, When.CONNECTED)  # kills in the return from the one before


@dataclass(frozen=True)
class Kill:
    """A kill and what follows. Times in seconds.

    delay: from its moment on. down: from its end to the next start. window: the blocks that I/O goes to before it, the
    first and how many. flush: of a QUIET one, before it. audit: after the return everything stops and all blocks are
    read. peek: while it is down the image is read.
    """

    when: When
    count: int
    delay: float
    down: float
    window: tuple[int, int]
    flush: bool
    audit: bool
    peek: bool


@dataclass(frozen=True)
class Setup:
    """Of virtiod and the target. discard: the target gives trimmed blocks back to its image."""

    indirect: bool
    event_idx: bool
    pollers: int
    queues: int
    ring: int
    block_size: int
    discard: bool


@dataclass(frozen=True)
class Load:
    """What users do. depth: requests that each has in flight. Shares of all requests: of each command, and of FUA."""

    users: int
    depth: int
    shares: Mapping[str, float]
    fua: float


@dataclass(frozen=True)
class Plan:
    setup: Setup
    load: Load
    kills: tuple[Kill, ...]


# What can be asked for by name, and not left to the seed.
VARIANTS: dict[str, Callable[[Setup], Setup]] = {
    "any": lambda drawn: drawn,
    "no-indirect": lambda drawn: replace(drawn, indirect=False),
    "no-event-idx": lambda drawn: replace(drawn, event_idx=False),
    "shared-queue": lambda drawn: replace(drawn, pollers=2, queues=1),
}


def draw(seed: int, kills: int = KILLS, variant: str = "any", users: int | None = None) -> Plan:
    """The plan of a seed, with its first kills only where it has more."""
    rng = random.Random(f"{seed}/plan")
    setup = VARIANTS[variant](_setup(rng))
    load = _load(rng)
    if users:
        load = replace(load, users=users)
    drawn = [_kill(rng, first=not index) for index in range(KILLS - 1)]
    return Plan(setup, load, tuple([*drawn, _last_kill(rng)][:kills]))


def _setup(rng: random.Random) -> Setup:
    pollers, queues = rng.choice([(1, 1), (1, 1), (2, 1), (2, 2)])
    return Setup(
        indirect=rng.random() < 0.75,
        event_idx=rng.random() < 0.75,
        pollers=pollers,
        queues=queues,
        ring=rng.choice([16, 64, 256]),
        block_size=rng.choice([BLOCK, BLOCK, BLOCK, 8 * BLOCK]),
        discard=rng.random() < 0.75,
    )


def _load(rng: random.Random) -> Load:
    users, depth = rng.randint(2, 5), rng.choice([1, 2, 4, 8])
    shares = {
        "write": 1.0,
        "read": rng.choice([0.1, 0.5]),
        "flush": rng.choice([0.01, 0.05, 0.2]),
        "zeroes": rng.choice([0.0, 0.1]),
        "trim": rng.choice([0.0, 0.1]),
    }
    return Load(users, depth, shares, fua=rng.choice([0.0, 0.05, 0.3]))


def _kill(rng: random.Random, first: bool) -> Kill:
    kinds = [When.SENT, When.ANSWERED, When.FLUSH, When.QUIET]
    kinds += [] if first else list(BEFORE_IO)
    when = rng.choices(kinds, [3, 2, 4, 2, 1, 2][: len(kinds)])[0]
    return Kill(
        when=when,
        count=rng.randint(1, 10) if when is When.FLUSH else rng.choice([rng.randint(1, 30), rng.randint(1, 1000)]),
        delay=_delay(rng, when),
        down=rng.choices([rng.uniform(0, 0.005), rng.uniform(0, 0.06), rng.uniform(0, 0.3)], [5, 4, 1])[0],
        window=_window(rng),
        flush=rng.random() < 0.5,
        audit=rng.random() < 0.6,
        peek=rng.random() < 0.4,
    )


def _last_kill(rng: random.Random) -> Kill:
    """After it all is there, in the image too."""
    return replace(_kill(rng, first=True), when=When.QUIET, flush=True, audit=True, peek=True, down=0.0)


def _delay(rng: random.Random, when: When) -> float:
    """A start takes some ms, a negotiation a few, a request some tens of µs; no delay at all is a moment of its own."""
    if when is When.STARTED:
        return rng.uniform(0, 0.01)
    if when is When.CONNECTED:
        return rng.choice([0.0, rng.uniform(0, 0.001), rng.uniform(0, 0.01)])
    return rng.choice([0.0, 0.0, rng.uniform(0, 0.0003), rng.uniform(0, 0.001)])


def _window(rng: random.Random) -> tuple[int, int]:
    """A range of blocks, at a multiple of 4 KiB but not at 0. Small, so that requests meet."""
    count = rng.choice([32, 64, 128])
    return rng.randrange(8, DISK_BLOCKS - count, 8), count
