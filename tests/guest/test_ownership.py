"""Real devices are taken from the kernel and given back, and refused for what is in the way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.guest.devices import pattern
from tests.guest.pci import address_of, device, given_back, kernel_disks, node_of
from tests.support.process import Daemon, RpcFailure, daemon
from tests.support.waiting import wait_until
from virtiod import cli

SMALL = ("-s", "32")
INVALID_PARAMS = -32602


def run(*words: str | Path) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, timeout=60).stdout


def pci(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Status of `virtiod pci`, and what it said."""
    status = cli.main(["pci", *words])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def refusal(virtiod: Daemon, name: str, dev_type: str = "blk", address: str = "") -> str:
    with pytest.raises(RpcFailure) as caught:
        traddr = address or address_of(name)
        virtiod.call("bdev_virtio_attach_controller", name="P0", trtype="pci", traddr=traddr, dev_type=dev_type)
    assert caught.value.code == INVALID_PARAMS
    assert virtiod.call("virtiod_get_controllers") == []
    return caught.value.message


def test_a_list_shows_the_devices_as_they_are(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = pci(capsys, "list", "--json")
    assert status == 0
    listed = {one["address"]: one for one in json.loads(out)}
    modern, scsi = listed[address_of("modern")], listed[address_of("scsi")]
    assert (modern["type"], modern["driver"], scsi["type"]) == ("blk", "virtio-pci", "scsi")
    assert (modern["way"], modern["iommu_group"] is not None) == (
        ("vfio", True) if variant == "iommu" else ("sysfs", False)
    )
    assert [disk["uses"] for disk in modern["disks"]] == [[]]
    assert len(scsi["disks"]) == 3
    assert "take it with `virtiod pci bind" in modern["to_use"]
    assert "legacy interface only" in listed[address_of("legacy")]["to_use"]
    assert "virtio-rng" in listed[address_of("random")]["to_use"]


@pytest.mark.parametrize("name", ["modern", "scsi"])
def test_a_device_goes_from_the_kernel_and_back(name: str, variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    address = address_of(name)
    disks = len(kernel_disks(address))
    assert disks
    with given_back(address):
        status, out = pci(capsys, "bind", address)
        assert (status, out.endswith(": ready\n")) == (0, True), out
        assert device(name).driver == ("vfio-pci" if variant == "iommu" else None)
        assert kernel_disks(address) == []
        assert pci(capsys, "unbind", address)[0] == 0
        assert device(name).driver == "virtio-pci"
    wait_until(lambda: len(kernel_disks(address)) == disks, "the kernel's disks")
    if name == "modern":
        assert node_of(address).read_bytes()[:4096] == pattern("modern", 0, 4096)


# ---- disks in use


@contextmanager
def file_system(node: Path) -> Iterator[Path]:
    """A disk with a file system, which in the end holds what it held before."""
    before = node.read_bytes()
    run("mkdosfs", node)
    try:
        yield node
    finally:
        node.write_bytes(before)


@contextmanager
def mounted(node: Path) -> Iterator[str]:
    with file_system(node):
        run("mount", "-t", "vfat", node, "/mnt")
        try:
            yield f"{node.name} is mounted at /mnt"
        finally:
            run("umount", "/mnt")


@contextmanager
def mounted_elsewhere(node: Path) -> Iterator[str]:
    """In a mount namespace of another process."""
    with file_system(node):
        script = f"mount -t vfat {node} /mnt && echo done && read end"
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
            yield f"{node.name} is claimed, perhaps mounted in another mount namespace"
        finally:
            process.communicate("\n", timeout=60)


@contextmanager
def swapped(node: Path) -> Iterator[str]:
    before = node.read_bytes()
    run("mkswap", node)
    run("swapon", node)
    try:
        yield f"{node.name} is swap space"
    finally:
        run("swapoff", node)
        node.write_bytes(before)


@contextmanager
def opened(node: Path) -> Iterator[str]:
    process = subprocess.Popen(["sh", "-c", f"exec 5<{node}; echo done; read end"], stdin=-1, stdout=-1, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield f"{node.name} is open in process {process.pid} (sh)"
    finally:
        process.communicate("\n", timeout=60)


@contextmanager
def behind_a_loop_device(node: Path) -> Iterator[str]:
    run("losetup", "/dev/loop0", node)
    try:
        yield f"{node.name} is behind loop0"
    finally:
        run("losetup", "-d", "/dev/loop0")


USES: list[Callable[[Path], AbstractContextManager[str]]] = [
    mounted,
    mounted_elsewhere,
    swapped,
    opened,
    behind_a_loop_device,
]


def test_a_disk_in_use_is_not_taken_away(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = address_of("modern")
    node = node_of(address)
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
        for use in USES:
            with use(node) as said:
                message = refusal(virtiod, "modern")
                assert f"its disk is in use: {said}" in message, use
                assert pci(capsys, "bind", address) == (1, f"virtiod: {message}\n")
                assert device("modern").driver == "virtio-pci"
        names = virtiod.call("bdev_virtio_attach_controller", name="P0", trtype="pci", traddr=address, dev_type="blk")
        assert names == ["P0"]
        assert not node.exists()
    assert node_of(address).read_bytes()[:512] == pattern("modern", 0, 512)


# ---- other refusals


def test_what_can_not_be_attached_is_refused_with_what_to_do(run_dir: Path) -> None:
    with daemon(run_dir, *SMALL) as virtiod:
        bound = refusal(virtiod, "modern")
        assert "bound to virtio-pci: take it with `virtiod pci bind 0000:00:03.0`, or start virtiod with" in bound
        assert "is a virtio-rng device: only virtio-blk and virtio-scsi" in refusal(virtiod, "random")
        assert "has the legacy interface only" in refusal(virtiod, "legacy")
        assert "its dev_type is scsi, not blk" in refusal(virtiod, "scsi")
        assert "there is no such PCI device" in refusal(virtiod, "", address="0000:00:1e.0")
        for name in ("modern", "random", "legacy", "scsi"):
            assert device(name).driver == "virtio-pci"


@contextmanager
def bound_to(name: str, driver: str) -> Iterator[None]:
    """By hand; the kernel's driver has it in the end."""
    found = device(name)

    def rebind(override: str) -> None:
        (found.path / "driver/unbind").write_text(found.address)
        (found.path / "driver_override").write_text(override)
        Path("/sys/bus/pci/drivers_probe").write_text(found.address)

    rebind(driver)
    try:
        assert device(name).driver == driver
        yield
    finally:
        rebind("\n")


@pytest.mark.variants("iommu")
def test_a_device_bound_to_a_driver_that_does_not_fit_is_left_there(run_dir: Path) -> None:
    with bound_to("modern", "uio_pci_generic"):
        with daemon(run_dir, *SMALL) as virtiod:
            assert "is bound to uio_pci_generic: take it with `virtiod pci bind" in refusal(virtiod, "modern")
        assert device("modern").driver == "uio_pci_generic"


@pytest.mark.variants("plain")
def test_without_an_iommu_there_must_be_huge_pages(run_dir: Path) -> None:
    pages = Path("/proc/sys/vm/nr_hugepages")
    before = pages.read_text()
    pages.write_text("0")
    try:
        with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
            message = refusal(virtiod, "modern")
        assert "DMA memory must be of huge pages" in message
        assert "sysctl vm.nr_hugepages=" in message
        assert device("modern").driver == "virtio-pci"
    finally:
        pages.write_text(before)
    assert pages.read_text() == before


@pytest.mark.variants("iommu")
def test_a_group_is_taken_as_a_whole_or_not_at_all(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = address_of("pair0"), address_of("pair1")
    group = device("pair0").iommu_group
    assert device("pair1").iommu_group == group
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
        message = refusal(virtiod, "pair0")
        assert f"its IOMMU group {group} also has {second} (virtio-pci), and is given away as a whole" in message
        assert device("pair0").driver == "virtio-pci"
        with given_back(second), given_back(first):
            assert pci(capsys, "bind", first)[1].startswith(f"{first} is bound to vfio-pci: {first}: its IOMMU group")
            assert pci(capsys, "bind", second)[1] == f"{second} is bound to vfio-pci: ready\n"
            for number, address in enumerate((first, second)):
                more = {"trtype": "pci", "traddr": address, "dev_type": "blk"}
                assert virtiod.call("bdev_virtio_attach_controller", name=f"P{number}", **more) == [f"P{number}"]
            status, out = pci(capsys, "unbind", first)
            assert (status, "is in use" in out) == (1, True), out
            for number in range(2):
                assert virtiod.call("bdev_virtio_detach_controller", name=f"P{number}") is True
            assert device("pair0").driver == "vfio-pci"  # as the operator had it


@pytest.mark.variants("plain")
@pytest.mark.last
def test_a_kernel_that_is_locked_down_is_recognised(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
    Path("/sys/kernel/security/lockdown").write_text("integrity")
    with daemon(run_dir, *SMALL, "--allow-unbind") as virtiod:
        message = refusal(virtiod, "modern")
    assert "kernel lockdown (integrity) forbids: give the machine an IOMMU, or boot it without lockdown" in message
    assert pci(capsys, "bind", address_of("modern"))[0] == 1
    assert device("modern").driver == "virtio-pci"
    assert os.access(node_of(address_of("modern")), os.R_OK)
