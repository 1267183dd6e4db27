"""A million I/Os of random seeds, and that a seed is all that a run depends on."""

from __future__ import annotations

import random

import pytest

from tests.sim import plan, runner
from tests.support import programs

PARTS = 8  # so that several processes share them
IOS = 2_000 if programs.QUICK else 1_000_000 // PARTS


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_shows_a_violation(part: int) -> None:
    first = random.SystemRandom().randrange(1 << 32)
    for _ in runner.run_many(first, IOS):
        pass


@pytest.mark.parametrize("seed", [2, 3, 5])
def test_same_seed_is_the_same_run(seed: int) -> None:
    assert runner.run(seed, 2000) == runner.run(seed, 2000)


def test_seeds_differ() -> None:
    assert runner.run(1, 1000).trace != runner.run(2, 1000).trace


def test_everything_happens_to_some_world() -> None:
    happened: dict[str, int] = {}
    kinds = set(plan.make(0, 1).events)
    for seed in range(200):
        for kind, n in runner.run(seed, 1000).happened.items():
            happened[kind] = happened.get(kind, 0) + n
        if set(happened) == kinds:
            return
    assert set(happened) == kinds
