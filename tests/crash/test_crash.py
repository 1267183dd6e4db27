"""CI's share of kills: 500, over all kinds of targets and ways to set virtiod up. `python -m tests.crash` does more."""

from __future__ import annotations

import asyncio

import pytest

from tests.crash.plan import KILLS, VARIANTS
from tests.crash.processes import Nursery
from tests.crash.report import Report, describe
from tests.crash.run import Case, run
from tests.crash.targets import Direct

pytestmark = pytest.mark.programs
RUNS = 5  # of a test: 25 kills
# qcow2 loses most when it dies: it has half of all.
TESTS = [
    *((kind, variant, 100) for kind in ("qcow2", "raw", "direct", "embedded") for variant in VARIANTS),
    *(("qcow2", variant, 200) for variant in VARIANTS),
]


@pytest.mark.parametrize(("kind", "variant", "seed"), TESTS)
def test_what_was_acknowledged_is_there_whenever_the_target_is_killed(kind: str, variant: str, seed: int) -> None:
    if kind == Direct.kind and not Direct.possible():
        pytest.skip(f"{Direct.directory()} has no direct I/O")
    report = Report()
    with Nursery() as nursery:
        for number in range(seed, seed + RUNS):
            outcome = asyncio.run(run(Case(kind, number, variant=variant), nursery))
            report.outcomes.append(outcome)
            assert not outcome.findings, describe(outcome)
    print(report.table())
    assert report.kills == RUNS * KILLS
