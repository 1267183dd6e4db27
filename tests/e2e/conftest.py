"""Fixtures of the tests of the whole daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.process import spdk_module
from tests.support.spdk_client import Outcome, spdk_rpc


@pytest.fixture
def rpc(run_dir: Path) -> Callable[..., Outcome]:
    """SPDK's unmodified client on the daemon at run_dir/rpc: rpc("bdev_get_bdevs", "-b", "V0")."""
    spdk_module()

    def run(*words: str | Path, stdin: str = "") -> Outcome:
        return asyncio.run(spdk_rpc(run_dir, *map(str, words), stdin=stdin))

    return run
