"""A disk that changes its size out of sight. While it is in sight: tests/contracts/controller.py."""

from __future__ import annotations

from pathlib import Path

from tests.support.process import daemon, target
from tests.support.waiting import wait_until

MIB = 1 << 20
ENOSPC = 28
BLOCK = 4096


def test_a_size_that_changed_while_the_target_was_away_is_seen_on_its_return(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    with daemon(run_dir) as virtiod:
        with target(run_dir, "--file", image) as disk:
            virtiod.attach(disk.socket)
        with image.open("r+b") as file:
            file.truncate(6 * MIB)
        with target(run_dir, "--file", image):
            wait_until(lambda: virtiod.bdev()["num_blocks"] * 512 == 6 * MIB, "the new size")
            assert virtiod.controller()["reconnects"] == 1
