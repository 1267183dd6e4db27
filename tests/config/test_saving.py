"""The state is saved in order, and a disk that hangs holds up nobody for long."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from virtiod.config import saving
from virtiod.config.saving import Saver
from virtiod.config.state import StateFile


def document(number: int) -> dict[str, Any]:
    return {"subsystems": [number]}


class Disk:
    """A disk that hangs until it is released. written: the documents that it was given."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.writes = 0
        self._goes_on = threading.Event()
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def release(self) -> None:
        self._goes_on.set()

    def content(self) -> Any:
        return json.loads(self.path.read_text())

    def _fsync(self, fd: int) -> None:
        if not Path(f"/proc/self/fd/{fd}").is_dir():
            self.writes += 1
        self._goes_on.wait()
        self._real(fd)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(tmp_path / "state.json", monkeypatch)
    yield found
    found.release()


def test_who_saves_meanwhile_is_answered_when_the_newest_is_written(disk: Disk) -> None:
    async def run() -> None:
        saver = Saver(StateFile(str(disk.path)))
        saves = [asyncio.ensure_future(saver.save(document(number))) for number in range(100)]
        await until(lambda: disk.writes == 1)
        assert not any(save.done() for save in saves)
        disk.release()
        assert await asyncio.gather(*saves) == [False] * 100
        assert disk.content() == document(99)
        assert disk.writes <= 2  # the first, and the newest
        await saver.close()

    asyncio.run(run())


def test_what_is_not_saved_in_time_is_told_and_saved_later(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "SAVE_S", 0.05)
    caplog.set_level("INFO")

    async def run() -> None:
        saver = Saver(StateFile(str(disk.path)))
        assert await saver.save(document(1))
        why = f"state file {disk.path}: not written within 0.05 s, the kernel still works on it"
        assert saver.unsaved == why
        monkeypatch.setattr(saving, "SAVE_S", 0.0)  # it has been over it for longer than that: nobody waits any more
        assert await asyncio.gather(*(saver.save(document(number)) for number in range(2, 5))) == [True] * 3
        assert not await saver.save(document(4))  # which was told
        assert disk.writes == 1
        disk.release()
        await until(lambda: not saver.unsaved)
        assert disk.content() == document(4)
        await saver.close()

    asyncio.run(run())
    assert f"state file {disk.path}: written again, with all that was not" in caplog.text


def test_the_end_does_not_wait_for_a_disk_that_hangs(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "SAVE_S", 0.01)
    monkeypatch.setattr(saving, "CLOSE_S", 0.01)

    async def run() -> None:
        saver = Saver(StateFile(str(disk.path)))
        assert await saver.save(document(1))
        await saver.close()

    asyncio.run(run())
    assert not disk.path.exists()


def test_the_end_waits_for_what_is_being_written(disk: Disk) -> None:
    async def run() -> None:
        saver = Saver(StateFile(str(disk.path)))
        save = asyncio.ensure_future(saver.save(document(1)))
        await until(lambda: disk.writes == 1)
        disk.release()
        await saver.close()
        assert disk.content() == document(1)
        assert await save is False

    asyncio.run(run())
