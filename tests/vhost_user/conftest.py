"""Fixtures of the vhost-user tests."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtiod.memory import DmaMemory


@pytest.fixture
def path() -> Iterator[str]:
    """Where a socket can be: short enough for a Unix address."""
    folder = tempfile.mkdtemp(prefix="vu", dir="/tmp")
    yield f"{folder}/s"
    shutil.rmtree(folder)


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    memory = DmaMemory(1 << 20, page_size=4096)
    yield memory
    memory.close()


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    before = _descriptors()
    yield
    leaked = _descriptors() - before
    assert not leaked, f"descriptors left open: {leaked}"


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((fd.name, str(fd.readlink())))
    return {entry for entry in found if "memfd" not in entry[1]}
