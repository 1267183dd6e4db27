"""Runs worlds by their seeds, and says how to repeat what was found."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from tests.sim import plan as plans
from tests.sim.bugs import BUGS
from tests.sim.engine import Violation
from tests.sim.plan import Plan
from tests.sim.world import Report, World

IOS = 5000  # of a seed


class Found(AssertionError):
    """A violation, and the command that repeats it."""


@dataclass
class Total:
    """The sum over some seeds. seconds are of this machine, simulated those of the worlds."""

    seeds: int = 0
    ios: int = 0
    failed: int = 0
    simulated: float = 0.0
    happened: dict[str, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.ios += report.ios
        self.failed += report.failed
        self.simulated += report.seconds
        for kind, n in report.happened.items():
            self.happened[kind] = self.happened.get(kind, 0) + n

    def __str__(self) -> str:
        happened = ", ".join(f"{kind} {n}" for kind, n in sorted(self.happened.items()))
        return (
            f"{self.seeds} seeds, {self.ios} I/Os ({self.failed} failed), {self.simulated:.0f} simulated s; {happened}"
        )


def command(plan: Plan, bug: str = "") -> str:
    """What repeats a run."""
    size = "" if plan.ios == IOS else f" --ios {plan.ios}"
    wrong = f" --bug '{bug}'" if bug else ""
    return f".venv/bin/python -m tests.sim --seed {plan.seed}{size}{wrong}"


def run(seed: int, ios: int = IOS, bug: str = "", *, make_it: bool = True) -> Report:
    """Raises Found. make_it: make the mistake, and not only what happens for it to show."""
    plan = plans.make(seed, ios)
    if bug:
        BUGS[bug].adapt(plan, make_it)
    wrong = BUGS[bug] if bug and make_it else None
    try:
        with wrong.made() if wrong else nullcontext():
            world = World(plan)
            if wrong:
                wrong.prepare(world)
            return world.run()
    except Violation as violation:
        raise Found(f"seed {seed}: {violation}\nTo repeat it: {command(plan, bug)}") from violation


def run_many(first: int, ios: int, seconds: float = float("inf")) -> Iterator[Total]:
    """Seeds one after the other, until that many I/Os or seconds; the total so far after each."""
    total = Total()
    ends = time.monotonic() + seconds
    while total.ios < ios and time.monotonic() < ends:
        total.add(run(first + total.seeds))
        yield total


def watch(first: int, hours: float) -> None:
    """Seeds for so long, with a line that says how far."""
    told = 0.0
    began = time.monotonic()
    for total in run_many(first, sys.maxsize, 3600 * hours):
        now = time.monotonic()
        if now - told > 1:
            told = now
            left = max(0.0, 3600 * hours - (now - began))
            print(f"\r{left / 60:6.1f} min left: {total.seeds} seeds, {total.ios} I/Os", end="", flush=True)
    print(f"\n{total}")
