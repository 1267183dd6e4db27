"""Each mistake of bugs.py is found, and its seed finds it again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import runner
from tests.sim.bugs import BUGS

pytestmark = pytest.mark.waits
SEEDS = 40  # of which one must show it
IOS = 2000
ROOT = Path(__file__).parents[2]


def finding(bug: str) -> runner.Found:
    for seed in range(SEEDS):
        try:
            runner.run(seed, IOS, bug)
        except runner.Found as found:
            return found
    pytest.fail(f"{SEEDS} seeds did not show it")


@pytest.mark.parametrize("bug", BUGS)
def test_mistake_is_found(bug: str) -> None:
    assert re.search(BUGS[bug].finds, str(finding(bug)))


@pytest.mark.parametrize("bug", BUGS)
def test_nothing_is_found_without_the_mistake(bug: str) -> None:
    """What happens for it to show is no violation by itself."""
    for seed in range(3):
        runner.run(seed, IOS, bug, make_it=False)


@pytest.mark.programs
@pytest.mark.parametrize(
    "bug", ["a device loses writes", "another disk is taken for the same", "a queue sleeps without a second look"]
)
def test_printed_command_repeats_a_failure_exactly(bug: str) -> None:
    found = str(finding(bug))
    command = found.rpartition("To repeat it: ")[2]
    assert command.startswith(".venv/bin/python -m tests.sim --seed ")
    again = subprocess.run(
        [sys.executable, *re.findall(r"'[^']*'|\S+", command.replace(".venv/bin/python ", ""))[:-1], bug],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert again.returncode == 1
    assert found in again.stderr
