"""A disk that grows and shrinks while it is in use."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.e2e.nbd_client import READ, WRITE, NbdClient
from tests.e2e.process import daemon, target
from tests.peers import run, wait_until

MIB = 1 << 20
ENOSPC = 28
BLOCK = 4096


def test_everybody_learns_of_a_new_size(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    with target(run_dir, "--file", image) as disk, daemon(run_dir, "-m", "1") as virtiod:
        virtiod.attach(disk.socket)
        uri = virtiod.export()
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="randread", queue_depth=4, time_s=60)

        def resize(size: int) -> None:
            with image.open("r+b") as file:
                file.truncate(size)
            disk.process.send_signal(signal.SIGHUP)
            wait_until(lambda: virtiod.bdev()["num_blocks"] * 512 == size, "the new size")

        with NbdClient(virtiod.nbd_socket, "V0") as old:
            assert old.size == 4 * MIB
            resize(8 * MIB)
            with NbdClient(virtiod.nbd_socket, "V0") as new:
                assert new.size == 8 * MIB
                assert new.ask(WRITE, 8 * MIB - BLOCK, data=b"e" * BLOCK)[0] == 0
                assert new.ask(READ, 8 * MIB - BLOCK, BLOCK) == (0, b"e" * BLOCK)
                assert run("nbdinfo", "--size", uri) == f"{8 * MIB}\n"
                resize(2 * MIB)
                assert new.ask(WRITE, 2 * MIB, data=b"x" * BLOCK)[0] == ENOSPC
                assert new.ask(WRITE, 2 * MIB - BLOCK, data=b"y" * BLOCK)[0] == 0
            assert old.ask(READ, 0, BLOCK)[0] == 0
            with NbdClient(virtiod.nbd_socket, "V0") as last:
                assert last.size == 2 * MIB
        events = [event["type"] for event in virtiod.call("notify_get_notifications") if event["ctx"] == "V0"]
        assert events == ["bdev_register", "bdev_resize", "bdev_resize"]
        wait_until(lambda: virtiod.iostat()["io_error"].get("nospace", 0) > 1, "the load to meet the new end")
        assert virtiod.controller()["state"] == "up"
        load.cancel()
    assert image.stat().st_size == 2 * MIB
    assert image.read_bytes()[-BLOCK:] == b"y" * BLOCK


def test_a_size_that_changed_while_the_target_was_away_is_seen_on_its_return(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    with daemon(run_dir, "-m", "1") as virtiod:
        with target(run_dir, "--file", image) as disk:
            virtiod.attach(disk.socket)
        with image.open("r+b") as file:
            file.truncate(6 * MIB)
        with target(run_dir, "--file", image):
            wait_until(lambda: virtiod.bdev()["num_blocks"] * 512 == 6 * MIB, "the new size")
            assert virtiod.controller()["reconnects"] == 1
