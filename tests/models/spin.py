"""Runs kept_writes.pml: Spin makes a C program of it, which visits all its states."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("kept_writes.pml")
SECONDS = 3000.0  # far more than any search of the tests needs, on a busy machine too
STEP = re.compile(r"^\s*(?:user|driver|device): .*", re.MULTILINE)


class SearchFailed(Exception):
    """The search ended before it had visited all states."""


@dataclass(frozen=True)
class Searched:
    """How many states there are, and if an assertion failed: its name, and the steps that led there."""

    states: int
    broken: str
    steps: list[str]


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise SearchFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _assertion(line: int) -> str:
    """The name that the model gives to the assertion of a line."""
    comment = re.search(r"assert.*/\* (\w+) \*/$", MODEL.read_text().splitlines()[line - 1])
    if comment is None:
        raise SearchFailed(f"line {line} of {MODEL.name} has no assertion with a name")
    return comment[1]


def search(folder: Path, defines: Mapping[str, int], shortest: bool = False, megabytes: int = 4096) -> Searched:
    """Visit all states within the bounds and switches that defines sets, or up to the first assertion that fails.

    shortest: find the shortest way to it, which takes more memory, and is worth no optimization of the program.
    """
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    _run(folder, "spin", *flags, "-a", str(MODEL))
    how = ["-O0", "-DBFS"] if shortest else ["-O2"]
    options = ["-w", "-DSAFETY", "-DCOLLAPSE", "-DNOREDUCE", f"-DMEMLIM={megabytes}"]
    _run(folder, "gcc", *how, *options, "-o", "pan", "pan.c")
    said = _run(folder, "./pan", "-m1000000", "-w22")
    states = re.search(r"^ *(\d+) states, stored", said, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", said)
    if states is None or errors is None or ("Search not completed" in said and errors[1] == "0"):
        raise SearchFailed(said)
    if errors[1] == "0":
        return Searched(int(states[1]), "", [])
    trail = _run(folder, "spin", "-t", "-k", str(folder / f"{MODEL.name}.trail"), *flags, str(MODEL))
    failed = re.search(rf"{MODEL.name}:(\d+), Error: assertion violated", trail)
    if failed is None:
        raise SearchFailed(f"no assertion failed:\n{said}{trail}")
    return Searched(int(states[1]), _assertion(int(failed[1])), [step.strip() for step in STEP.findall(trail)])
