"""What `virtiod target` makes of its options."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from virtiod.cli import main
from virtiod.commands import target as command
from virtiod.controllers.request import AttachRequest
from virtiod.system import System
from virtiod.target.target import Target


@contextlib.asynccontextmanager
async def attached(path: Path, kind: str) -> AsyncIterator[list[str]]:
    """The serials of the disks behind a socket."""
    system = System([-1], memory_mib=32)
    system.start()
    try:
        names = await system.controllers.attach(AttachRequest("D0", "user", str(path), kind))
        yield [system.bdevs.get(name).info.serial for name in names]
    finally:
        await system.stop()


def serials(monkeypatch: pytest.MonkeyPatch, sockets: list[Path], *options: str, kind: str = "blk") -> list[str]:
    """Of the disks of one start of the command, socket by socket."""
    found: list[str] = []

    async def serve(target: Target) -> None:
        await target.start()
        for path in sockets:
            async with attached(path, kind) as some:
                found.extend(some)
        await target.stop()

    monkeypatch.setattr(command, "_serve", serve)
    assert main(["target", *map(str, sockets), *options]) == 0
    return found


@pytest.mark.parametrize("options", [(), ("--memory", "1M")])
def test_a_disk_in_memory_is_another_one_at_each_start_and_on_each_socket(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    sockets = [run_dir / "a", run_dir / "b"]
    found = [*serials(monkeypatch, sockets, *options), *serials(monkeypatch, sockets, *options)]
    assert len(set(found)) == 4
    assert all(len(serial) <= 20 for serial in found)


def test_a_lun_in_memory_is_another_one_at_each_start(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--scsi", "0:0=1M,0:1=null:1M,1:0=1M")
    (first, null, other), again = (serials(monkeypatch, [run_dir / "a"], *options, kind="scsi") for _ in range(2))
    assert len({first, other, again[0], again[2]}) == 4
    assert null == again[1] == "virtiod-0-1"


@pytest.mark.parametrize("kind", ["file", "null", "serial"])
def test_a_disk_whose_data_outlives_the_target_or_that_was_given_a_serial_is_the_same_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    image = run_dir / "disk.img"
    image.write_bytes(bytes(1 << 20))
    options = {
        "file": ("--file", str(image)),
        "null": ("--null", "1M"),
        "serial": ("--memory", "1M", "--serial", "A"),
    }[kind]
    expected = ["A" if kind == "serial" else "virtiod-target"]
    for _ in range(2):
        assert serials(monkeypatch, [run_dir / "a"], *options) == expected
