"""Each kind of device, from the kernel's hands into virtiod's and back: what is read and written is the host's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.devices import MIB, SCSI_DISKS, pattern
from tests.guest.inside import Host
from tests.guest.pci import PciDaemon, address_of, check_given_back, driver_of, pci_daemon
from tests.support.nbd_client import FLUSH, READ, TRIM, WRITE, NbdClient

SIZE = 16 * MIB
PLACE = 3 * MIB  # where nothing else writes
EPERM = 1


def check_io(virtiod: PciDaemon, host: Host, bdev: str, disk: str) -> bytes:
    """Reads find what the host has put there, loads verify, a flush brings writes into the host's file, and what is
    discarded reads as zeroes. Returns what the file then holds from PLACE on."""
    virtiod.export(bdev)
    with NbdClient(virtiod.nbd_socket, bdev) as client:
        assert client.size == SIZE
        assert client.ask(READ, 4096, 65536) == (0, pattern(disk, 4096, 65536))
        virtiod.verify(bdev, total_bytes=MIB // 4)
        data = pattern(f"written to {disk}", 0, 65536)
        assert client.ask(WRITE, PLACE, data=data)[0] == 0
        assert client.ask(FLUSH)[0] == 0
        assert host.read(disk, PLACE, len(data)) == data
        host.write(disk, PLACE + 16384, b"h" * 4096)
        assert client.ask(READ, PLACE + 16384, 4096) == (0, b"h" * 4096)
        assert client.ask(TRIM, PLACE, 16384)[0] == 0
        assert client.ask(READ, PLACE, 16384) == (0, bytes(16384))
        assert client.ask(FLUSH)[0] == 0
    virtiod.call("nbd_delete_export", name=bdev)
    left = bytes(16384) + b"h" * 4096 + data[20480:]
    assert host.read(disk, PLACE, len(data)) == left
    return left


def check_kernel_reads(node: Path, offset: int, data: bytes) -> None:
    with node.open("rb") as file:
        file.seek(offset)
        assert file.read(len(data)) == data


def check_disk(run_dir: Path, host: Host, variant: str, device: str, block_size: int = 512, queues: int = 1) -> None:
    """Taken from the kernel, used, given back: on each occasion it is the same disk."""
    address = address_of(device)
    check_given_back(address)
    with pci_daemon(run_dir, "-m", "3" if queues > 1 else "1") as virtiod:
        assert virtiod.attach_pci(address) == ["V0"]
        assert driver_of(address) == ("vfio-pci" if variant == "iommu" else "")
        bdev = virtiod.bdev()
        assert (bdev["block_size"], bdev["num_blocks"] * block_size) == (block_size, SIZE)
        assert bdev["driver_specific"]["blk"]["serial"] == device
        found = bdev["driver_specific"]["virtio"]
        assert (found["type"], found["pci_address"], found["vq_count"]) == ("pci-modern", address, queues)
        left = check_io(virtiod, host, "V0", device)
        virtiod.detach()
        (node,) = check_given_back(address)
        assert (Path("/sys/block") / node.name / "serial").read_text().strip() == device
        check_kernel_reads(node, PLACE, left)


@pytest.mark.parametrize("device", ["taken", "rootport"])
def test_a_disk_is_taken_used_and_given_back(run_dir: Path, host: Host, variant: str, device: str) -> None:
    check_disk(run_dir, host, variant, device)


@pytest.mark.variants("plain")  # QEMU knows no transitional device that honours an IOMMU
def test_a_transitional_disk_is_driven_as_a_modern_one(run_dir: Path, host: Host, variant: str) -> None:
    check_disk(run_dir, host, variant, "transitional")


def test_a_disk_of_large_blocks(run_dir: Path, host: Host, variant: str) -> None:
    check_disk(run_dir, host, variant, "blocks4k", block_size=4096)


def test_a_disk_with_a_queue_for_each_of_two_pollers(run_dir: Path, host: Host, variant: str) -> None:
    check_disk(run_dir, host, variant, "twoqueues", queues=2)


def test_a_read_only_disk_is_read_and_not_written(run_dir: Path) -> None:
    address = address_of("readonly")
    with pci_daemon(run_dir) as virtiod:
        assert virtiod.attach_pci(address) == ["V0"]
        virtiod.export()
        with NbdClient(virtiod.nbd_socket, "V0") as client:
            assert client.ask(READ, 8192, 4096) == (0, pattern("readonly", 8192, 4096))
            assert client.ask(WRITE, 8192, data=bytes(4096))[0] == EPERM
            assert client.ask(READ, 8192, 4096) == (0, pattern("readonly", 8192, 4096))
        virtiod.detach()
        (node,) = check_given_back(address)
        check_kernel_reads(node, 8192, pattern("readonly", 8192, 4096))


def test_all_disks_of_a_scsi_controller_are_taken_used_and_given_back(run_dir: Path, host: Host) -> None:
    address = address_of("scsi")
    check_given_back(address, disks=len(SCSI_DISKS))
    names = {"V0t0": "scsi00", "V0t0l1": "scsi01", "V0t1": "scsi10"}
    with pci_daemon(run_dir) as virtiod:
        assert virtiod.attach_pci(address, dev_type="scsi") == list(names)
        for bdev, disk in names.items():
            assert virtiod.bdev(bdev)["driver_specific"]["scsi"]["serial"] == disk
        left = {disk: check_io(virtiod, host, bdev, disk) for bdev, disk in names.items()}
        virtiod.detach()
        for node in check_given_back(address, disks=len(SCSI_DISKS)):
            page = (Path("/sys/block") / node.name / "device/vpd_pg80").read_bytes()
            check_kernel_reads(node, PLACE, left[page[4:].decode().strip()])
