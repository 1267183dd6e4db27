"""For all tests: none may leave anything behind, those that start programs say so, and sockets get short paths."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import programs, sharing
from tests.support.leaks import Snapshot, TaskWatch, adopt_orphans
from virtiod.core.memory import DmaMemory

adopt_orphans()
programs.watch()
if not os.environ.get("VIRTIOD_GUEST"):  # which has no hypothesis
    from hypothesis import HealthCheck, settings

    # A busy machine is no failure: no time limit for an example, nor for making it.
    settings.register_profile(
        "virtiod",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=20 if programs.QUICK else 100,
    )
    settings.load_profile("virtiod")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    programs.mark_folders(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Gives away whole groups, the largest first, and then tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = sharing.group_of
    return scheduler


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return sharing.processes()


@pytest.fixture(autouse=True)
def starts_no_program_unmarked(request: pytest.FixtureRequest) -> Iterator[None]:
    """See tests.support.programs."""
    programs.started()
    yield
    started = programs.started()
    if started and not request.node.get_closest_marker("programs"):
        pytest.fail("started programs, and is not marked so:\n  " + "\n  ".join(started), pytrace=False)


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
