"""The watch over leaks itself: it must see what it is there for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading

import pytest

from tests.support import leaks
from tests.support.leaks import Snapshot, TaskWatch


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE_S", 0.05)


def test_a_thread_that_stays_is_seen() -> None:
    before = Snapshot()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    assert [line.split()[0] for line in before.leaked()] == ["thread"]
    end.set()
    thread.join()
    assert before.leaked() == []


def test_an_open_file_descriptor_is_seen_with_what_it_is_open_on() -> None:
    before = Snapshot()
    fd = os.open("/dev/null", os.O_RDONLY)
    assert before.leaked() == [f"file descriptor {fd}: /dev/null"]
    os.close(fd)


@pytest.mark.programs
def test_a_child_that_was_not_waited_for_is_seen() -> None:
    before = Snapshot()
    process = subprocess.Popen(["sleep", "60"])
    assert [line.split(":")[0] for line in before.leaked()] == [f"child process {process.pid}"]
    process.kill()
    process.wait()


@pytest.mark.programs
def test_an_orphan_of_a_child_is_seen() -> None:
    before = Snapshot()
    pid = int(subprocess.check_output(["sh", "-c", "sleep 60 >&- & echo $!"]))
    assert [line.split(":")[0] for line in before.leaked()] == [f"child process {pid}"]
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_a_task_that_outlives_the_main_one_is_named() -> None:
    async def main() -> None:
        main.task = asyncio.create_task(asyncio.sleep(60), name="forgotten")  # type: ignore[attr-defined]

    watch = TaskWatch()
    watch.run(main())
    assert len(watch.complaints) == 1
    assert "forgotten" in watch.complaints[0]
