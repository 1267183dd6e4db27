"""The guest's PCI devices, for its tests: where they are, who has them, a daemon that may take them, the way back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.guest.devices import DEVICES, HOT_PORTS, MIB
from tests.support import peers
from tests.support.process import Daemon, orderly
from tests.support.waiting import PATIENCE_S, wait_until
from virtiod.pci import ownership
from virtiod.pci.devices import PciDevice, find, scan
from virtiod.pci.disks import Disk, disks_of
from virtiod.pci.host import Host

SYSFS = Path("/sys/bus/pci/devices")


def behind(slot: int) -> list[str]:
    """The addresses of what is behind the root port in a slot of bus 0."""
    return sorted(path.name for path in (SYSFS / f"0000:00:{slot:02x}.0").glob("0000:*:??.?"))


def address_of(name: str) -> str:
    """A device's PCI address."""
    (device,) = [device for device in DEVICES if device.name == name]
    if not device.behind_port:
        return f"0000:00:{device.slot:02x}.{device.function}"
    (address,) = behind(device.slot)
    return address


def device(name: str) -> PciDevice:
    return find(address_of(name))


def kernel_disks(address: str) -> list[Disk]:
    return disks_of(find(address), Host())


def node_of(address: str) -> Path:
    """The kernel's block device of a virtio-blk controller."""
    wait_until(lambda: kernel_disks(address), f"the kernel's disk at {address}")
    (disk,) = kernel_disks(address)
    return Path("/dev") / disk.name


def addresses() -> set[str]:
    return {device.address for device in scan()}


@contextmanager
def given_back(address: str) -> Iterator[str]:
    """The kernel has the device again in the end."""
    try:
        yield address
    finally:
        ownership.unbind(address)


def wait_plugged(port: str) -> str:
    """The address of the device in a root port, when the kernel has found it and its driver taken it."""
    wait_until(lambda: [a for a in behind(HOT_PORTS[port]) if driver_of(a)], f"a device in {port}")
    (address,) = behind(HOT_PORTS[port])
    return address


def wait_unplugged(port: str) -> None:
    wait_until(lambda: not behind(HOT_PORTS[port]), f"{port} to be empty")


def driver_of(address: str) -> str:
    """The kernel driver that a device is bound to; "" for none."""
    link = SYSFS / address / "driver"
    return link.readlink().name if link.exists() else ""


def check_given_back(address: str, disks: int = 1) -> list[Path]:
    """The kernel's driver has it again, and sees so many disks; their device nodes."""
    assert driver_of(address) == "virtio-pci"
    wait_until(lambda: len(kernel_disks(address)) == disks, f"the kernel to see {disks} disks of {address}")
    return sorted(Path("/dev") / disk.name for disk in kernel_disks(address))


def virtiod_command(run_dir: Path, *words: str) -> str:
    """What `virtiod WORD...` prints; the test fails unless it exits with 0 in time."""
    log = run_dir / "command.log"
    log.unlink(missing_ok=True)
    code = peers.start([sys.executable, "-m", "virtiod.cli", *words], log).wait(PATIENCE_S)
    assert code == 0, log.read_text()
    return log.read_text()


class PciDaemon(Daemon):
    """The daemon, and what it is asked about PCI."""

    def attach_pci(self, address: str, name: str = "V0", dev_type: str = "blk") -> list[str]:
        """The names of the bdevs."""
        found = self.call("bdev_virtio_attach_controller", name=name, trtype="pci", traddr=address, dev_type=dev_type)
        return list(found)

    def detach(self, name: str = "V0") -> None:
        assert self.call("bdev_virtio_detach_controller", name=name) is True

    def verify(self, bdev: str, **params: Any) -> None:
        """A load that reads back what it wrote, and finds it."""
        workload = {"rw": "verify", "queue_depth": 16, "total_bytes": MIB, "seed": 1, **params}
        for result in self.call("perform_tests", bdevs=[bdev], force=True, **workload)["results"]:
            assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)


@contextmanager
def pci_daemon(run_dir: Path, *options: str | Path) -> Iterator[PciDaemon]:
    """It may take devices from the kernel."""
    with orderly(PciDaemon(run_dir, "--allow-unbind", "-s", "32", *options)) as process:
        yield process
