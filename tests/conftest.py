"""Fixtures for all tests: none may leave anything behind, and sockets get short paths."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import Snapshot, TaskWatch, adopt_orphans
from virtiod.core.memory import DmaMemory

adopt_orphans()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that leaks threads, file descriptors, child processes or asyncio tasks.

    @pytest.mark.leaks(reason="...") exempts a test that can't help it.
    """
    marker = request.node.get_closest_marker("leaks")
    if marker:
        if not marker.kwargs.get("reason"):
            pytest.fail("@pytest.mark.leaks needs a reason")
        yield
        return
    before = Snapshot()
    watch = TaskWatch()
    monkeypatch.setattr(asyncio, "run", watch.run)
    logging.getLogger("asyncio").addHandler(watch)
    yield
    leaked = before.leaked()
    logging.getLogger("asyncio").removeHandler(watch)
    if leaked or watch.complaints:
        pytest.fail("left behind:\n  " + "\n  ".join(leaked + watch.complaints), pytrace=False)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's may have 107 bytes, and pytest's tmp_path is long."""
    path = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def path(run_dir: Path) -> str:
    """Where a socket can be."""
    return str(run_dir / "s")


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    """DMA memory of 1 MiB, of small pages."""
    memory = DmaMemory(1 << 20, page_size=4096)
    yield memory
    memory.close()
