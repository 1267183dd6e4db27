"""What comes to a path is heard of, however it comes."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.rig import in_loop
from virtiod.core import inotify, libc
from virtiod.core.inotify import PathWatch

LONG_S = 30.0
CREATE, IGNORED = 0x100, 0x8000


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def move(path: Path) -> None:
    bind(path.with_name("other"))
    path.with_name("other").rename(path)


def permit(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("come", [bind, move])
@in_loop
async def test_what_is_made_or_moved_there_is_heard_of_at_once(run_dir: Path, come: Callable[[Path], None]) -> None:
    watch = PathWatch(str(run_dir / "s"))
    waiting = asyncio.ensure_future(watch.wait(LONG_S))
    await asyncio.sleep(0)
    come(run_dir / "s")
    assert await waiting
    watch.close()


@in_loop
async def test_a_new_mode_of_what_is_there_is_heard_of(run_dir: Path) -> None:
    bind(run_dir / "s")
    watch = PathWatch(str(run_dir / "s"))
    permit(run_dir / "s")
    assert await watch.wait(LONG_S)
    watch.close()


@in_loop
async def test_what_came_before_one_waits_is_not_missed(run_dir: Path) -> None:
    watch = PathWatch(str(run_dir / "s"))
    bind(run_dir / "s")
    assert await watch.wait(LONG_S)
    assert not await watch.wait(0.01)
    watch.close()


@in_loop
async def test_other_things_in_the_folder_are_not_told_of(run_dir: Path) -> None:
    watch = PathWatch(str(run_dir / "s"))
    bind(run_dir / "other")
    assert not await watch.wait(0.05)
    watch.close()


@pytest.mark.parametrize("depth", [1, 4])
@in_loop
async def test_folders_may_come_later(run_dir: Path, depth: int) -> None:
    folder = run_dir.joinpath(*(f"f{n}" for n in range(depth)))
    watch = PathWatch(str(folder / "s"))
    for part in [*reversed(folder.relative_to(run_dir).parents)][1:]:
        (run_dir / part).mkdir()
        assert await watch.wait(LONG_S)
    folder.mkdir()
    assert await watch.wait(LONG_S)
    bind(folder / "s")
    assert await watch.wait(LONG_S)
    watch.close()


@in_loop
async def test_folders_that_come_with_what_is_in_them_hide_nothing(run_dir: Path) -> None:
    for _ in range(20):
        folder = run_dir / "a" / "b" / "c"
        watch = PathWatch(str(folder / "s"))
        folder.mkdir(parents=True)
        await asyncio.sleep(0)
        bind(folder / "s")
        assert await watch.wait(LONG_S)
        while await watch.wait(0.01):
            pass
        (folder / "s").unlink()
        bind(folder / "s")
        assert await watch.wait(LONG_S)
        watch.close()
        shutil.rmtree(run_dir / "a")


@in_loop
async def test_a_folder_may_go_and_another_come(run_dir: Path) -> None:
    folder = run_dir / "f"
    folder.mkdir()
    watch = PathWatch(str(folder / "s"))
    folder.rename(run_dir / "old")
    assert await watch.wait(LONG_S)
    folder.mkdir()
    assert await watch.wait(LONG_S)
    bind(folder / "s")
    assert await watch.wait(LONG_S)
    (folder / "s").unlink()
    folder.rmdir()
    assert await watch.wait(LONG_S)
    watch.close()


@in_loop
async def test_many_watches_share_one_descriptor_which_goes_with_the_last(run_dir: Path) -> None:
    def descriptors() -> int:
        found = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        return found.count(Path("anon_inode:inotify"))

    watches = [PathWatch(str(run_dir / f"s{n % 3}")) for n in range(9)]
    assert descriptors() == 1
    bind(run_dir / "s1")
    assert [await watch.wait(0.05) for watch in watches] == [False, True, False] * 3
    for watch in watches:
        watch.close()
        watch.close()
    assert descriptors() == 0


@in_loop
async def test_a_watch_that_the_kernel_ended_does_not_take_the_next_of_its_number_along(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libc, "inotify_add_watch", lambda *_: 1)
    watch = PathWatch(str(run_dir / "s"))
    for events, name in ((IGNORED, b""), (CREATE, b"s\0")):
        told = struct.pack("iIII", 1, events, 0, len(name)) + name
        monkeypatch.setattr(inotify, "os", SimpleNamespace(read=lambda *_: told, fsdecode=os.fsdecode))  # noqa: B023
        inotify._folders._read()
        monkeypatch.setattr(inotify, "os", os)
        assert await watch.wait(0.01)
    watch.close()


@pytest.mark.parametrize("where", ["inotify_init", "inotify_add_watch"])
@in_loop
async def test_limits_are_an_error_that_leaves_nothing(
    run_dir: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(libc, where, full)
    with pytest.raises(OSError, match="Too many open files"):
        PathWatch(str(run_dir / "s"))


@in_loop
async def test_a_link_that_leads_nowhere_is_no_folder(run_dir: Path) -> None:
    (run_dir / "link").symlink_to(run_dir / "nowhere")
    watch = PathWatch(str(run_dir / "link" / "s"))
    assert not await watch.wait(0.01)
    watch.close()
