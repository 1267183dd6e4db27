"""Huge pages that are really there, and run out: which daemons get them, and what becomes of the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.process import Daemon
from tests.support.waiting import wait_until
from virtiod.core.errors import NoMemory
from virtiod.core.memory import MIB, DmaMemory
from virtiod.core.pages import available

PAGE = 2 * MIB
POOL = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture
def pages() -> Iterator[int]:
    """How many there are, all of them free: enough for two daemons with -s 64, and not for three."""
    before = POOL.read_text()
    POOL.write_text("80")
    yield available(PAGE)
    POOL.write_text(before)


def is_running(daemon: Daemon) -> bool:
    return "running:" in daemon.log.read_text()


def test_several_daemons_that_start_at_once_all_run(run_dir: Path, pages: int) -> None:
    assert pages == 80
    with contextlib.ExitStack() as running:
        daemons = []
        for number in range(3):
            (run_dir / str(number)).mkdir()
            daemons.append(Daemon(run_dir / str(number), "-s", "64"))
            running.callback(daemons[-1].stop)
        for one in daemons:
            wait_until(partial(is_running, one), "its start")
            one.call("bdev_null_create", name="N0", num_blocks=2048)
            load = one.call("perform_tests", bdevs=["N0"], rw="randrw", queue_depth=8, total_bytes=MIB)
            assert load["results"][0]["io_failed"] == 0
        logs = [one.log.read_text() for one in daemons]
        assert sum("DMA memory: 64 MiB of 2048 KiB pages" in log for log in logs) == 2
        assert sum("DMA memory: 64 MiB of 4 KiB pages" in log for log in logs) == 1
        assert available(PAGE) == 16
    wait_until(lambda: available(PAGE) == 80, "all pages to be back")


def test_one_that_needs_them_says_how_many_are_missing(run_dir: Path, pages: int) -> None:
    failing = Daemon(run_dir, "-s", "256", "--huge", "need")
    try:
        wait_until(lambda: failing.process.poll() is not None, "the daemon to refuse")
        assert "--huge need: it takes 128 huge pages of 2048 KiB (80 free)" in failing.log.read_text()
    finally:
        failing.stop()


def test_pages_are_taken_at_once_and_given_back_by_what_failed(pages: int) -> None:
    memory = DmaMemory(20 * PAGE, huge="need")
    assert available(PAGE) == 60
    assert os.fstat(memory.fd).st_blocks * 512 == 20 * PAGE, "and not when they are first used"
    with pytest.raises(NoMemory, match="grow DMA memory"):
        memory.allocate(61 * PAGE)
    assert available(PAGE) == 60
    address = memory.allocate(60 * PAGE - MIB)
    memory.view(address, 60 * PAGE - MIB)[::4096] = bytes(len(range(0, 60 * PAGE - MIB, 4096)))
    assert available(PAGE) == 0
    memory.close()
    assert available(PAGE) == 80


def test_growth_is_of_plain_pages_when_there_are_no_more(pages: int) -> None:
    memory = DmaMemory(40 * PAGE)
    for _ in range(3):
        address = memory.allocate(39 * PAGE)
        memory.view(address, 8)[:] = b"all good"
    assert available(PAGE) == 0
    assert len({region.fd for region in memory.regions}) == 2
    memory.close()
