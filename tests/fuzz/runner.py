"""Runs fuzz functions: first the whole corpus, then mutations of it until the time is over.

A fuzz function is `fuzz(data: bytes)` of a module tests/fuzz/fuzz_NAME.py. It returns for every input. A parser's
documented errors it catches itself; anything else that it raises, and any crash, is a finding.

The input in hand lies in a file that is mapped, tests/fuzz/found/NAME.current: it survives a crash of the process, and
fuzzing learns no system call per input. What raises is saved in tests/fuzz/found/ under its hash.
"""

from __future__ import annotations

import hashlib
import importlib
import mmap
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.mutate import MAX_BYTES, mutate

HERE = Path(__file__).parent
KEEP = 256  # mutated inputs to mutate further, beside the corpus


class Finding(AssertionError):
    """A fuzz function raised. The message says on which input, and where that is saved."""


class Result(NamedTuple):
    inputs: int
    seconds: float


def names() -> list[str]:
    """What can be fuzzed."""
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


def corpus(name: str) -> list[bytes]:
    """The inputs kept in the tree, smallest first, and the empty one."""
    kept = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*")) if path.is_file()]
    return sorted({b"", *kept}, key=lambda data: (len(data), data))


@contextmanager
def _current(name: str, directory: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that notes the input in hand: its length, 4 bytes little-endian, and its bytes."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.current"
    path.write_bytes(bytes(4 + MAX_BYTES))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4 + MAX_BYTES) as area:

        def note(data: bytes) -> None:
            area[:4] = len(data).to_bytes(4, "little")
            area[4 : 4 + len(data)] = data

        yield note
    path.unlink()


def crashed_on(name: str, directory: Path = HERE / "found") -> bytes | None:
    """The input on which the last run of this name died, if it did."""
    path = directory / f"{name}.current"
    if not path.exists():
        return None
    noted = path.read_bytes()
    return noted[4 : 4 + int.from_bytes(noted[:4], "little")]


def _inputs(rng: random.Random, known: list[bytes], until: float) -> Iterator[bytes]:
    """The corpus, then mutations until the time is over. Some mutations are mutated further."""
    yield from known
    recent: list[bytes] = []
    while time.monotonic() < until:
        base = rng.choice(recent if recent and rng.random() < 0.5 else known)
        data = mutate(rng, base, rng.choice(known))
        if len(recent) < KEEP:
            recent.append(data)
        else:
            recent[rng.randrange(KEEP)] = data
        yield data


def run(
    name: str,
    function: Callable[[bytes], object],
    known: list[bytes],
    seconds: float,
    seed: int,
    directory: Path = HERE / "found",
) -> Result:
    """Fuzz function for some seconds after the known inputs. The same seed makes the same inputs.

    Raises Finding.
    """
    start = time.monotonic()
    count = 0
    with _current(name, directory) as note:
        for data in _inputs(random.Random(seed), known, start + seconds):
            note(data)
            try:
                function(data)
            except Exception as error:
                path = directory / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
                path.write_bytes(data)
                raise Finding(f"{name}: {error!r} on {data[:64]!r} (seed {seed}), saved as {path}") from error
            count += 1
    return Result(count, time.monotonic() - start)


def load(name: str) -> Callable[[bytes], object]:
    """The fuzz function of this name."""
    function: Callable[[bytes], object] = importlib.import_module(f"tests.fuzz.fuzz_{name}").fuzz
    return function
