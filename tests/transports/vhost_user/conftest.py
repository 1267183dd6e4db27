"""Fixtures of the vhost-user tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from virtiod.core.memory import DmaMemory


@pytest.fixture
def path(run_dir: Path) -> str:
    """Where a socket can be."""
    return str(run_dir / "s")


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    memory = DmaMemory(1 << 20, page_size=4096)
    yield memory
    memory.close()
