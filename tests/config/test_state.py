"""The state file is always whole, its owner's, and where it was asked for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from virtiod.config.state import StateFile

DOCUMENT: dict[str, object] = {"subsystems": [{"subsystem": "bdev", "config": []}]}
OTHER: dict[str, object] = {"subsystems": []}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_is_written_is_read_again_and_is_its_owners(path: Path) -> None:
    StateFile(str(path)).write(DOCUMENT)
    assert json.loads(path.read_text()) == DOCUMENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("name", ["state.json.new", ".state.json.new", ".state.json..new"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "file"])
def test_nothing_that_lies_there_is_written_to_or_in_the_way(path: Path, name: str, kind: str) -> None:
    victim, planted = path.parent / "victim", path.parent / name
    victim.write_text("precious")
    if kind == "directory":
        planted.mkdir()
    elif kind == "file":
        planted.write_text("planted")
    else:
        planted.symlink_to(victim if kind == "link" else path.parent / "nothing")
    StateFile(str(path)).write(DOCUMENT)
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert json.loads(path.read_text()) == DOCUMENT
    assert not (path.parent / "nothing").exists()


def test_a_new_file_is_made_with_a_name_of_its_own_that_nothing_may_have(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    real = os.open

    def opened(name: str, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            made.append((Path(name).name, flags))
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", opened)
    file = StateFile(str(path))
    file.write(DOCUMENT)
    file.write(OTHER)
    (first, flags), (second, _) = made
    assert first != second
    assert flags & os.O_EXCL
    assert flags & os.O_NOFOLLOW


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_leaves_the_old_content_and_nothing_else(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = StateFile(str(path))
    file.write(DOCUMENT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full) if step == "fsync" else patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            file.write(OTHER)
    assert json.loads(path.read_text()) == DOCUMENT
    assert [one.name for one in path.parent.iterdir()] == ["state.json"]
    file.write(OTHER)
    assert json.loads(path.read_text()) == OTHER


def test_a_state_that_is_as_before_is_written_again_after_a_failure_that_came_late(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(str(path))
    file.write(DOCUMENT)
    real = os.fsync

    def no_directory(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(5, "Input/output error")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_directory)
        with pytest.raises(OSError, match="Input"):
            file.write(OTHER)  # it is there, though perhaps not after a power cut
    file.write(DOCUMENT)
    assert json.loads(path.read_text()) == DOCUMENT


def test_what_a_killed_daemon_left_is_removed_at_the_next_start(path: Path) -> None:
    left, others = path.parent / ".state.json.abcd1234.new", path.parent / ".other.json.abcd1234.new"
    for file in (left, others):
        file.write_text("{")
    link = path.parent / ".state.json.link.new"
    link.symlink_to(others)
    assert StateFile(str(path)).read() == []
    assert sorted(one.name for one in path.parent.iterdir()) == sorted([others.name, link.name])
