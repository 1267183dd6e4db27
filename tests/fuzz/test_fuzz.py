"""Every fuzz function on its whole corpus and a moment of mutations; and the runner itself.

The seed is fixed, so that a failure here comes again: `python -m tests.fuzz` is for new ones.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.mutate import MAX_BYTES, mutate
from tests.support.programs import QUICK

SECONDS = 0.2 if QUICK else 2.0  # of mutations, after the corpus


@pytest.mark.parametrize("name", runner.names())
def test_no_input_breaks(name: str, tmp_path: Path) -> None:
    runner.run(name, runner.load(name), runner.corpus(name), seconds=SECONDS, seed=1, directory=tmp_path)


@pytest.mark.parametrize("name", runner.names())
def test_each_fuzz_function_has_a_corpus_to_start_from(name: str) -> None:
    assert len(runner.corpus(name)) > 1


def test_an_input_that_breaks_is_saved(tmp_path: Path) -> None:
    def breaks_on_a_short_length(data: bytes) -> None:
        if data[:4] == b"\x00\x00\x00\x08" and len(data) < 12:
            raise IndexError("short")

    with pytest.raises(runner.Finding, match="IndexError"):
        runner.run("x", breaks_on_a_short_length, [b"\x00\x00\x00\x08payload!"], 20, 1, tmp_path)
    saved = list(tmp_path.glob("x-*"))
    assert len(saved) == 1
    with pytest.raises(IndexError):
        breaks_on_a_short_length(saved[0].read_bytes())


@pytest.mark.programs
def test_the_input_that_killed_the_process_can_be_read_afterwards(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from tests.fuzz import runner;"
        "die = lambda data: data == b'bad' and os.abort();"
        "runner.run('x', die, [b'good', b'bad'], 0, 1, pathlib.Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode < 0
    assert runner.crashed_on("x", tmp_path) == b"bad"


def test_the_same_seed_makes_the_same_inputs() -> None:
    known = [b"hello, world", b"\x01\x02\x03\x04"]
    once, again = (
        [mutate(rng, known[0], known[1]) for _ in range(100)] for rng in (random.Random(7), random.Random(7))
    )
    assert once == again
    assert len(set(once)) > 90


def test_inputs_stay_within_their_limit() -> None:
    rng = random.Random(3)
    data = b"x" * MAX_BYTES
    for _ in range(200):
        data = mutate(rng, data, data)
        assert len(data) <= MAX_BYTES
