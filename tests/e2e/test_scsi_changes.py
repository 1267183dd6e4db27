"""SCSI units that come, grow, go and fall silent while I/O runs on others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.e2e.scsi_host import scsi_host
from tests.support.clocks import Stopwatch, threads
from tests.support.nbd_client import READ, NbdClient
from tests.support.process import Daemon, daemon, target
from tests.support.waiting import LOAD_S, wait_until

MIB = 1 << 20
ESHUTDOWN = 108  # NBD's for a device that is gone
ABORT_S = 1.5  # a silent target's command is aborted after so long


def names(virtiod: Daemon) -> set[str]:
    return {bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")}


def told(virtiod: Daemon, kind: str, name: str) -> bool:
    return any((e["type"], e["ctx"]) == (kind, name) for e in virtiod.call("notify_get_notifications"))


def test_a_scan_of_256_targets_is_quick_and_a_silent_one_delays_only_itself(run_dir: Path) -> None:
    with (
        scsi_host(run_dir, "3:0=1M,100:0=1M,250:0=1M") as host,
        target(run_dir, "--memory", "16M", name="b") as disk,
        daemon(run_dir) as virtiod,
    ):
        virtiod.attach(disk.socket, "B0")

        load = virtiod.send("perform_tests", bdevs=["B0"], rw="randread", queue_depth=4, time_s=LOAD_S)
        virtiod.wait_busy("B0")

        concerned = [one for peer in (virtiod, host, disk) for one in threads(peer.process.pid)]

        def scan(found: list[str]) -> Stopwatch:
            """What an attach takes."""
            clock = Stopwatch(concerned)
            assert virtiod.attach_scsi(host.socket) == found
            clock.stop()
            virtiod.call("bdev_virtio_detach_controller", name="S0")
            return clock

        plain = scan(["S0t3", "S0t100", "S0t250"])
        host.do("silence", 100, True)
        virtiod.call("bdev_reset_iostat", name="B0", mode="maxmin")
        before = virtiod.ops("B0")
        hindered = scan(["S0t3", "S0t250"])
        slowest_s = virtiod.iostat("B0")["max_read_latency_ticks"] / 1e9
        print(f"scan of 256 targets: {plain.own_s():.3f} s, with a silent one {hindered.own_s():.3f} s; ", end="")
        print(f"the slowest I/O beside it took {1e3 * slowest_s:.1f} ms")
        assert plain.own_s() < 5  # generous: it takes a few hundredths
        assert hindered.own_s() < plain.own_s() + ABORT_S
        assert virtiod.ops("B0") > before
        assert slowest_s - hindered.waited_s() < hindered.elapsed_s() / 2  # none waited for the scan
        load.cancel()


def test_a_target_that_was_silent_appears_when_it_answers(run_dir: Path) -> None:
    with scsi_host(run_dir, "3:0=1M,100:0=1M") as host, daemon(run_dir) as virtiod:
        host.do("silence", 100, True)
        assert virtiod.attach_scsi(host.socket) == ["S0t3"]
        wait_until(lambda: "target 100 LUN 0: no answer to command 0x12" in virtiod.log.read_text(), "the log")
        host.do("silence", 100, False)
        wait_until(lambda: told(virtiod, "bdev_register", "S0t100"), "the disk to appear")
        (load,) = virtiod.call("perform_tests", bdevs=["S0t100"], rw="verify", total_bytes=MIB)["results"]
        assert (load["status"], load["io_mismatched"]) == ("finished", 0)


def test_units_come_grow_and_go_under_the_load_of_others(run_dir: Path) -> None:
    with scsi_host(run_dir, "0:0=8M,1:0=null:8M") as host, daemon(run_dir) as virtiod:
        virtiod.attach_scsi(host.socket)
        load = virtiod.send("perform_tests", bdevs=["S0t0"], rw="verify", queue_depth=8, time_s=LOAD_S)
        second = virtiod.send("perform_tests", bdevs=["S0t1"], rw="randrw", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy("S0t0")
        for _ in range(2):
            host.do("add", 2, 300, 4 * MIB)
            wait_until(lambda: "S0t2l300" in names(virtiod), "the new disk")
            (result,) = virtiod.call("perform_tests", bdevs=["S0t2l300"], rw="randwrite", total_bytes=MIB)["results"]
            assert (result["status"], result["io_failed"]) == ("finished", 0)
            host.do("resize", 2, 300, 6 * MIB)
            wait_until(lambda: virtiod.bdev("S0t2l300")["num_blocks"] == 6 * MIB // 512, "the new size")
            host.do("remove", 2, 300)
            wait_until(lambda: "S0t2l300" not in names(virtiod), "the disk to go")
            virtiod.wait_busy("S0t0")
        events = [e["type"] for e in virtiod.call("notify_get_notifications") if e["ctx"] == "S0t2l300"]
        assert events == ["bdev_register", "bdev_resize", "bdev_unregister"] * 2
        host.do("resize", 1, 0, 16 * MIB)
        wait_until(lambda: virtiod.bdev("S0t1")["num_blocks"] == 16 * MIB // 512, "the new size under load")
        virtiod.wait_busy("S0t1")
        assert virtiod.call("bdev_virtio_detach_controller", name="S0") is True
        for result in (*load.result()["results"], *second.result()["results"]):
            assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)


def test_a_unit_that_goes_under_load_fails_its_io_and_ends_its_export(run_dir: Path) -> None:
    with scsi_host(run_dir, "0:0=8M,1:0=8M") as host, daemon(run_dir) as virtiod:
        virtiod.attach_scsi(host.socket)
        virtiod.export("S0t1")
        other = virtiod.send("perform_tests", bdevs=["S0t0"], rw="verify", queue_depth=8, time_s=LOAD_S)
        load = virtiod.send("perform_tests", bdevs=["S0t1"], rw="randread", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy("S0t1")
        with NbdClient(virtiod.nbd_socket, "S0t1") as client:
            host.do("fault", 1, 0, "silence,opcode=28")
            client.send(READ, 7, 0, 4096)
            wait_until(lambda: virtiod.iostat("S0t1")["queue_depth"] == 9, "all of its I/O to be in flight")
            host.do("remove", 1, 0)
            cookie, code, _ = client.reply()
            assert (cookie, code) == (7, ESHUTDOWN)
            with pytest.raises((EOFError, ConnectionError)):  # before the deadline of the client's socket
                while True:
                    assert client.ask(READ, 0, 4096)[0] == ESHUTDOWN
        (result,) = load.result()["results"]
        assert (result["io_failed"] >= 8, result["first_error"]) == (True, os.strerror(errno.ENODEV))
        wait_until(lambda: names(virtiod) == {"S0t0"}, "the disk to go")
        assert virtiod.call("nbd_get_exports") == []
        virtiod.wait_busy("S0t0")
        assert virtiod.controller("S0")["reconnects"] == 0
        assert virtiod.call("bdev_virtio_detach_controller", name="S0") is True
        (result,) = other.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)
