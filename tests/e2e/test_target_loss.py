"""Targets that die, come back, stay away, or misbehave: what those who do I/O see."""

from __future__ import annotations

import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.peers import Peer, peer, storage_daemon
from tests.support.process import Daemon, daemon, of_json, target
from tests.support.rest import recovering
from tests.support.waiting import LOAD_S, wait_until

MIB = 1 << 20
EIO = 5  # NBD's, for everything that is no other error


def start_target(stack: ExitStack, run_dir: Path, kind: str) -> Peer:
    """A target over the file disk.img, which outlives it."""
    image = run_dir / "disk.img"
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(16 * MIB)
    if kind == "qemu":
        return stack.enter_context(storage_daemon(run_dir, f"driver=file,filename={image}", queues=2, name="t"))
    plain = ("--no-indirect", "--no-event-idx") if kind == "plain rings" else ()
    return stack.enter_context(target(run_dir, "--file", image, "--queues", "2", *plain))


@pytest.mark.parametrize("kind", ["qemu", "embedded", "plain rings"])
def test_a_target_that_dies_and_returns_costs_nothing_but_time(run_dir: Path, kind: str) -> None:
    with ExitStack() as stack, recovering(run_dir) as virtiod:
        victim = start_target(stack, run_dir, kind)
        virtiod.attach(victim.socket, vq_count=2)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=16, time_s=LOAD_S)
        for times in (1, 2):
            virtiod.wait_busy(more=500)
            victim.kill()
            wait_until(lambda: virtiod.controller()["state"] == "reconnecting", "the loss to be noticed")
            victim = start_target(stack, run_dir, kind)
            wait_until(lambda: virtiod.controller()["state"] == "up", "the controller to return")
            assert virtiod.controller()["reconnects"] == times
        virtiod.wait_busy(more=500)
        assert virtiod.call("bdev_virtio_detach_controller", name="V0") is True
        (result,) = load.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)


def test_another_image_of_a_program_with_one_serial_for_all_is_told_by_a_smaller_size_only(run_dir: Path) -> None:
    """The limit that docs/data-safety.md tells of: there is nothing else to compare."""
    with ExitStack() as stack, recovering(run_dir) as virtiod:
        victim = start_target(stack, run_dir, "qemu")
        virtiod.attach(victim.socket)
        virtiod.export()
        with NbdClient(virtiod.nbd_socket, "V0") as client:
            assert client.ask(WRITE, 0, data=b"x" * 4096)[0] == 0
        image = run_dir / "disk.img"
        for size in (8 * MIB, 16 * MIB):
            victim.kill()
            wait_until(lambda: virtiod.controller()["state"] == "reconnecting", "the loss to be noticed")
            image.unlink()
            image.write_bytes(bytes(size))
            victim = start_target(stack, run_dir, "qemu")
            if size == 8 * MIB:
                wait_until(lambda: "came back as another disk" in virtiod.controller()["why"], "it to be refused")
                assert image.read_bytes() == bytes(size)
        wait_until(lambda: virtiod.controller()["state"] == "up", "the controller to return")
        assert image.read_bytes()[:4096] == b"x" * 4096


def test_the_io_of_a_target_that_stays_away_times_out(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "1") as virtiod:
        victim = start_target(stack, run_dir, "embedded")
        virtiod.attach(victim.socket)
        virtiod.export()
        with NbdClient(virtiod.nbd_socket, "V0") as client:
            assert client.ask(READ, 0, 4096) == (0, bytes(4096))
            load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, time_s=LOAD_S, force=True)
            virtiod.wait_busy()
            victim.kill()
            (result,) = load.result()["results"]
            assert (result["status"], result["io_timeout"]) == ("failed", 4)
            assert result["first_error"] == "Connection timed out"
            assert client.ask(READ, 0, 4096)[0] == EIO
        assert virtiod.iostat()["io_error"] == {"timeout": 5}
        assert virtiod.controller()["state"] == "reconnecting"


def test_a_detach_from_a_target_that_is_gone_ends_and_tells_what_it_gave_up(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "0") as virtiod:
        victim = start_target(stack, run_dir, "embedded")
        virtiod.attach(victim.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, time_s=LOAD_S)
        virtiod.wait_busy()
        victim.kill()
        wait_until(lambda: virtiod.controller()["state"] == "reconnecting", "the loss to be noticed")
        assert virtiod.call("bdev_virtio_detach_controller", name="V0") is True
        assert virtiod.call("bdev_get_bdevs") == []
        (result,) = load.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 4, 0)
        assert result["first_error"] == "No such device"
        # Those of its users, and perhaps a flush of virtiod's own.
        assert re.search(r"controller V0: gave up [45] requests in flight", virtiod.log.read_text())


def short_load(virtiod: Daemon, **params: Any) -> dict[str, Any]:
    """A verifying load of 200 I/Os at queue depth 1, unless said otherwise."""
    workload = {"rw": "verify", "queue_depth": 1, "total_bytes": 100 * 4096, **params}
    (result,) = virtiod.call("perform_tests", bdevs=["V0"], **workload)["results"]
    return of_json(result)


def test_a_slow_target_is_waited_for(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M", "--fault=delay,delay=20000") as disk, recovering(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        result = short_load(virtiod, queue_depth=16)
        assert (result["status"], result["io_mismatched"]) == ("finished", 0)
        assert result["min_latency_us"] > 15000  # the target's clock starts a moment before it looks


@pytest.mark.waits
def test_io_that_waits_in_line_for_a_slow_target_does_not_time_out(run_dir: Path) -> None:
    slow = ("--memory", "1M", "--fault=delay,delay=200000")
    with target(run_dir, *slow) as disk, recovering(run_dir, "--io-timeout", "1") as virtiod:
        virtiod.attach(disk.socket, vq_count=1, vq_size=4)
        # Three at once, each answered after 0.2 s: the last of 64 waits for 4 s, most of them in virtiod.
        result = short_load(virtiod, rw="read", queue_depth=64, total_bytes=64 * 4096)
        assert (result["status"], result["io_failed"]) == ("finished", 0)
        assert virtiod.controller()["reconnects"] == 0


@pytest.mark.parametrize("paused", ["daemon", "target"])
def test_a_latency_covers_the_time_that_a_poller_did_not_run(run_dir: Path, paused: str) -> None:
    slow = ("--memory", "1M", "--poll-mode", "busy", "--fault=delay,delay=2000")
    with target(run_dir, *slow) as disk, recovering(run_dir, "--poll-mode", "busy") as virtiod:
        virtiod.attach(disk.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, time_s=LOAD_S)
        virtiod.wait_busy()
        victim = virtiod if paused == "daemon" else disk
        for _ in range(30):  # each time it stops somewhere in a round, and what it waits for comes meanwhile
            victim.pause()
            time.sleep(0.01)
            victim.resume()
            virtiod.wait_busy(more=4)
        virtiod.call("bdev_virtio_detach_controller", name="V0")
        (result,) = load.result()["results"]
        assert result["min_latency_us"] > 1500


def test_an_error_of_the_target_reaches_the_caller_and_nobody_else(run_dir: Path) -> None:
    fault = "--fault=error,after=10,every=10"
    with target(run_dir, "--memory", "1M", fault) as disk, recovering(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        result = short_load(virtiod)
        assert (result["status"], result["first_error"]) == ("failed", "Input/output error")
        assert 15 <= result["io_failed"] <= 20
        assert result["io_mismatched"] == 0
        assert virtiod.iostat()["io_error"] == {"io": result["io_failed"]}
        assert virtiod.controller()["state"] == "up"


@pytest.mark.parametrize("fault", ["used-id", "used-index"])
def test_a_target_that_breaks_the_ring_is_cut_off_and_asked_again(run_dir: Path, fault: str) -> None:
    options = ("--memory", "1M", f"--fault={fault},after=50,every=50")
    with target(run_dir, *options) as disk, recovering(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        result = short_load(virtiod)
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
        wait_until(lambda: virtiod.controller()["reconnects"] >= 1, "the return to be counted")
        assert "the device wrote an invalid used ring" in virtiod.log.read_text()


def test_a_target_that_has_its_eventfd_block_holds_up_no_other_disk(run_dir: Path) -> None:
    disk = ("--memory", "16M", "--serial", "disk")
    hostile: list[str | Path] = [sys.executable, "-m", "tests.support.blocking_target", run_dir / "t.sock", *disk]
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=8)
        with target(run_dir, *disk) as honest:
            virtiod.attach(honest.socket)
            virtiod.send("perform_tests", bdevs=["V0"], rw="randread", queue_depth=1, time_s=LOAD_S)
            virtiod.wait_busy()
            honest.kill()
        with peer(run_dir, hostile, run_dir / "t.sock"):
            wait_until(lambda: "the device made its eventfd block" in virtiod.log.read_text(), "the target to do so")
            (result,) = virtiod.call("perform_tests", bdevs=["N0"], rw="randread", total_bytes=1 << 22)["results"]
            assert (result["status"], result["io_failed"]) == ("finished", 0)
        with target(run_dir, *disk):  # gets the same eventfds as the hostile one, fit for use
            virtiod.wait_busy()
            virtiod.terminate()
            virtiod.ends()


def test_an_answer_without_a_status_is_an_error(run_dir: Path) -> None:
    fault = "--fault=no-status,after=10,every=1000"
    with target(run_dir, "--memory", "1M", fault) as disk, recovering(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        # 1200 requests and GET_ID: one of them, the 1010th, is hit.
        result = short_load(virtiod, total_bytes=600 * 4096)
        assert (result["status"], result["io_failed"], result["first_error"]) == ("failed", 1, "Input/output error")


def test_io_that_the_target_swallows_times_out(run_dir: Path) -> None:
    fault = "--fault=silence,after=50"
    with target(run_dir, "--memory", "1M", fault) as disk, recovering(run_dir, "--io-timeout", "1") as virtiod:
        virtiod.attach(disk.socket)
        result = short_load(virtiod, queue_depth=4)
        assert (result["status"], result["io_timeout"], result["io_mismatched"]) == ("failed", 4, 0)
        assert "the device did not answer an I/O within 1 s" in virtiod.log.read_text()
        wait_until(lambda: virtiod.controller()["state"] == "up", "the controller to return")
        assert virtiod.controller()["reconnects"] == 1


def test_a_target_that_dies_by_itself_leaves_io_to_its_successor(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir) as virtiod:
        image = run_dir / "disk.img"
        with image.open("wb") as file:
            file.truncate(MIB)
        dying = stack.enter_context(target(run_dir, "--file", image, "--fault=death,after=100"))
        virtiod.attach(dying.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, total_bytes=200 * 4096)
        wait_until(lambda: dying.process.poll() is not None, "the target to die")
        stack.enter_context(target(run_dir, "--file", image))
        (result,) = load.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
        wait_until(lambda: virtiod.controller()["reconnects"] == 1, "the return to be counted")


def test_another_disk_at_the_socket_gets_nothing_of_what_was_meant_for_the_old_one(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir) as virtiod:
        own, other = run_dir / "disk.img", run_dir / "other.img"
        for image in (own, other):
            with image.open("wb") as file:
                file.truncate(MIB)
        dying = stack.enter_context(target(run_dir, "--file", own, "--serial", "A", "--fault=silence,after=1"))
        virtiod.attach(dying.socket)
        virtiod.export()
        client = stack.enter_context(NbdClient(virtiod.nbd_socket, "V0"))
        client.send(WRITE, 1, 0, data=b"w" * 4096)
        wait_until(lambda: virtiod.controller()["queues"][0]["in_flight"], "the write to be in flight")
        dying.kill()
        stranger = stack.enter_context(target(run_dir, "--file", other, "--serial", "B"))
        said = "came back as another disk: its serial is 'B', it was 'A'"
        wait_until(lambda: said in virtiod.log.read_text(), "the other disk to be noticed")
        assert virtiod.controller()["state"] == "reconnecting"
        stranger.kill()
        stack.enter_context(target(run_dir, "--file", own, "--serial", "A"))
        assert client.reply() == (1, 0, b"")
        assert own.read_bytes()[:4096] == b"w" * 4096
        assert other.read_bytes() == bytes(MIB)
