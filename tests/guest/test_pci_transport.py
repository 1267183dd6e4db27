"""What the PCI transport does by VFIO and through sysfs: interrupts, memory that grows, ends of all kinds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.guest.devices import DEVICES, MIB
from tests.support import peers
from tests.support.process import Daemon, RpcFailure, daemon, of_json
from tests.support.waiting import wait_until

ADDRESSES = {device.name: f"0000:00:{device.slot:02x}.0" for device in DEVICES}
KERNEL = Path("/sys/bus/pci/drivers/virtio-pci")
ASLEEP = 0.8  # of the time; a poller that spins never sleeps


@contextmanager
def attached(run_dir: Path, device: str, *options: str) -> Iterator[Daemon]:
    """As V0, and given back in the end."""
    with daemon(run_dir, "--allow-unbind", *options) as virtiod:
        virtiod.call("bdev_virtio_attach_controller", name="V0", trtype="pci", traddr=ADDRESSES[device], dev_type="blk")
        assert not (KERNEL / ADDRESSES[device]).exists()
        yield virtiod
        virtiod.call("bdev_virtio_detach_controller", name="V0")
    wait_until((KERNEL / ADDRESSES[device]).exists, "the kernel to have it again")


def load(virtiod: Daemon, **params: Any) -> dict[str, Any]:
    (result,) = virtiod.call("perform_tests", bdevs=["V0"], **params)["results"]
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0), result
    return of_json(result)


def test_a_sleeping_poller_is_woken_by_an_interrupt_or_looks_again(run_dir: Path, variant: str) -> None:
    with attached(run_dir, "busy", "-s", "64", "--poll-us", "0") as virtiod:
        load(virtiod, rw="verify", queue_depth=1, total_bytes=MIB // 4)
        (queue,) = virtiod.controller()["queues"]
        assert queue["kicks"] > 0
        assert (queue["interrupts"] > 0) == (variant == "iommu")


def test_an_idle_device_costs_next_to_nothing(run_dir: Path) -> None:
    with attached(run_dir, "busy", "-s", "64") as virtiod:
        load(virtiod, rw="randread", queue_depth=4, total_bytes=MIB // 4)
        before = virtiod.call("virtiod_get_pollers")
        with pytest.raises(RpcFailure):
            virtiod.call("bdev_get_bdevs", name="nobody", timeout=2000)  # which waits for it so long
        after = virtiod.call("virtiod_get_pollers")
        asleep = after["pollers"][0]["sleep"] - before["pollers"][0]["sleep"]
        assert asleep > ASLEEP * (after["ticks"] - before["ticks"])


def test_memory_that_grows_is_reached(run_dir: Path) -> None:
    with attached(run_dir, "busy", "-s", "64") as virtiod:
        load(virtiod, rw="verify", block_size=MIB // 2, queue_depth=32, total_bytes=16 * MIB)
        assert "DMA memory: 128 MiB" in virtiod.log.read_text()


def test_a_device_is_measured_without_a_daemon(run_dir: Path) -> None:
    address = ADDRESSES["busy"]
    words = ["perf", address, "--allow-unbind", "-w", "randread", "--total-bytes", "1M", "-s", "64", "--json"]
    report = json.loads(peers.run(sys.executable, "-m", "virtiod.cli", *words))
    assert report["totals"]["io_failed"] == 0
    wait_until((KERNEL / address).exists, "the kernel to have it again")
