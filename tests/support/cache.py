"""What is made once and kept in .cache/: by one process at a time, while others wait for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache"


@contextmanager
def kept(name: str) -> Iterator[Path]:
    """The folder .cache/NAME, which is this process's alone for as long as the context lasts."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(CACHE / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)
