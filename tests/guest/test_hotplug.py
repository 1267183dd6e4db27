"""Devices that arrive and are taken out while the daemon runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.guest.devices import MIB, pattern
from tests.guest.inside import Host
from tests.guest.pci import addresses
from tests.support.process import Daemon, daemon
from tests.support.waiting import LOAD_S, wait_until
from virtiod.pci.devices import find

SMALL = ("-s", "32")
ARRIVAL_S = 120.0  # a root port's button blinks for 5 s before its slot is powered off, and the guest is slow
SIZE = 8 * MIB


@contextmanager
def plugged(host: Host, name: str) -> Iterator[str]:
    """A new disk's address. It is taken out in the end, unless that was done."""
    before = addresses()
    host.plug(name, "hot0", SIZE)
    wait_until(lambda: addresses() - before, "the device to arrive", ARRIVAL_S)
    (address,) = addresses() - before
    try:
        yield address
    finally:
        if address in addresses():
            host.unplug(name)
        wait_until(lambda: address not in addresses(), "the device to go", ARRIVAL_S)


def attach(virtiod: Daemon, address: str) -> None:
    params = {"name": "H0", "trtype": "pci", "traddr": address, "dev_type": "blk"}
    assert virtiod.call("bdev_virtio_attach_controller", **params) == ["H0"]


def events(virtiod: Daemon) -> list[tuple[str, str]]:
    return [(event["type"], event["ctx"]) for event in virtiod.call("notify_get_notifications")]


def load(virtiod: Daemon, bdev: str, **more: Any) -> dict[str, Any]:
    params = {"rw": "verify", "queue_depth": 4, "total_bytes": 256 << 10} | more
    (result,) = virtiod.call("perform_tests", bdevs=[bdev], **params)["results"]
    return dict(result)


def test_a_device_that_arrives_is_attached_and_one_that_goes_is_given_up(run_dir: Path, host: Host) -> None:
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
        assert virtiod.call("bdev_virtio_blk_set_hotplug", enable=True, period_us=200_000) is True
        for number in range(2):  # a second time, at the same address
            name = f"VirtioBlk{number}"
            with plugged(host, f"arrives{number}") as address:
                (bdev,) = virtiod.call("bdev_get_bdevs", name=name, timeout=60_000)
                assert bdev["driver_specific"]["virtio"]["pci_address"] == address
                assert bdev["num_blocks"] * bdev["block_size"] == SIZE
                result = load(virtiod, name)
                assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
            wait_until(lambda: not virtiod.call("virtiod_get_controllers"), "the controller to end")
            assert events(virtiod)[-2:] == [("bdev_register", name), ("bdev_unregister", name)]
        virtiod.call("bdev_virtio_blk_set_hotplug", enable=False)
        params = {"name": "H0", "trtype": "pci", "traddr": address, "dev_type": "blk", "wait_for_device": True}
        assert virtiod.call("bdev_virtio_attach_controller", **params) == []
        with plugged(host, "awaited"):
            assert virtiod.call("bdev_get_bdevs", name="H0", timeout=60_000)
            assert load(virtiod, "H0")["io_mismatched"] == 0


def test_a_device_that_arrives_is_not_taken_from_the_kernel_unasked(run_dir: Path, host: Host) -> None:
    with daemon(run_dir, *SMALL) as virtiod:
        assert virtiod.call("bdev_virtio_blk_set_hotplug", enable=True) is True
        with plugged(host, "unasked") as address:
            wait_until(lambda: "not attached without --allow-unbind" in virtiod.log.read_text(), "the log", ARRIVAL_S)
            assert find(address).driver == "virtio-pci"
            assert virtiod.call("virtiod_get_controllers") == []


def test_io_to_a_device_that_is_taken_out_ends_with_enodev(run_dir: Path, host: Host) -> None:
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
        with plugged(host, "underload") as address:
            attach(virtiod, address)
            running = virtiod.send("perform_tests", bdevs=["H0"], rw="randread", queue_depth=4, time_s=LOAD_S)
            virtiod.wait_busy("H0", 20)
            host.unplug("underload")
            (result,) = running.result()["results"]
            assert (result["first_error"], result["io_mismatched"]) == (os.strerror(errno.ENODEV), 0)
            wait_until(lambda: not virtiod.call("virtiod_get_controllers"), "the controller to end")
            assert virtiod.call("bdev_get_bdevs") == []
            assert events(virtiod) == [("bdev_register", "H0"), ("bdev_unregister", "H0")]
        assert "controller H0: up -> detaching" in virtiod.log.read_text()
        with plugged(host, "again") as address:  # and the daemon goes on as if nothing had been
            attach(virtiod, address)
            assert load(virtiod, "H0", rw="randread")["status"] == "finished"
            assert virtiod.call("bdev_virtio_detach_controller", name="H0") is True
            wait_until(lambda: find(address).driver == "virtio-pci", "the kernel to have it again")
            assert host.read("again", 0, 512) == pattern("again", 0, 512)


@pytest.mark.variants("plain")
def test_a_bus_that_is_gone_at_once_takes_nothing_else_along(run_dir: Path, host: Host) -> None:
    """The kernel removes the device without asking anybody: its registers are unmapped under the poller."""
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod, plugged(host, "surprise") as address:
        attach(virtiod, address)
        running = virtiod.send("perform_tests", bdevs=["H0"], rw="randread", queue_depth=4, time_s=LOAD_S)
        virtiod.wait_busy("H0", 20)
        (find(address).path / "remove").write_text("1")
        (result,) = running.result()["results"]
        assert result["first_error"] == os.strerror(errno.ENODEV)
        wait_until(lambda: not virtiod.call("virtiod_get_controllers"), "the controller to end")
        Path("/sys/bus/pci/rescan").write_text("1")
        wait_until(lambda: address in addresses(), "the device to be found again", ARRIVAL_S)
        attach(virtiod, address)
        assert load(virtiod, "H0", rw="randread")["status"] == "finished"
