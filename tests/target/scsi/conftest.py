"""Fixtures of the target's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(run_dir: Path) -> str:
    """Where a socket can be."""
    return str(run_dir / "s")
