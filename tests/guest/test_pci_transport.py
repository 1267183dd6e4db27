"""The PCI transport on QEMU's devices: what each is, written, read, resized and given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import Daemon, daemon
from tests.guest.devices import DEVICES
from tests.guest.inside import Host

ADDRESSES = {d.name: f"0000:00:{d.slot:02x}.0" for d in DEVICES}


@pytest.fixture
def virtiod(run_dir: Path) -> Iterator[Daemon]:
    with daemon(run_dir, "--allow-unbind", "-s", "64", "--log-level", "DEBUG") as process:
        yield process
        print(process.log.read_text())


def attach(virtiod: Daemon, device: str, dev_type: str = "blk") -> list[str]:
    return virtiod.call(
        "bdev_virtio_attach_controller", name="V0", trtype="pci", traddr=ADDRESSES[device], dev_type=dev_type
    )


def test_what_the_host_put_there_is_read(virtiod: Daemon, host: Host) -> None:
    assert attach(virtiod, "modern") == ["V0"]
    bdev = virtiod.bdev()
    assert bdev["driver_specific"]["virtio"]["type"] == "pci-modern"
    uri = virtiod.export()
    print(uri, bdev)
    virtiod.call("bdev_virtio_detach_controller", name="V0")
    assert Path(f"/sys/bus/pci/drivers/virtio-pci/{ADDRESSES['modern']}").exists()
