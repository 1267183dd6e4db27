"""A made-up machine: a tree like /sys, /proc and /dev, and a kernel that minds what is written to it."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from virtiod.pci.host import Host

DRIVERS = ("virtio-pci", "vfio-pci", "uio_pci_generic", "pcieport", "e1000e")
MODERN_CAPS = bytes((0x09, 0x50, 16, 1)) + bytes(12) + bytes((0x11, 0, 0, 0))  # common configuration, then MSI-X


def config_space(modern: bool = True) -> bytes:
    config = bytearray(256)
    struct.pack_into("<HH", config, 0, 0x1AF4, 0x1042)
    if modern:
        config[0x06] = 0x10
        config[0x34] = 0x40
        config[0x40 : 0x40 + len(MODERN_CAPS)] = MODERN_CAPS
    return bytes(config)


class FakeHost(Host):
    """devices have virtio-pci and disks until they are unbound; errors[name of a file] fails the write to it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.errors: dict[str, int] = {}
        self.claimed: set[str] = set()
        self.stubborn: set[str] = set()  # drivers that refuse to take a device
        self.arriving: set[str] = set()  # devices that virtio-pci is just about to have
        self.writes: list[str] = []
        self._disks: dict[str, list[str]] = {}
        self._minor = 0
        for folder in ("bus/pci/devices", "class/block", "kernel/iommu_groups", "devices/virtual/block"):
            (self.sys / folder).mkdir(parents=True)
        (self.sys / "bus/pci/drivers_probe").touch()
        for driver in DRIVERS:
            self.load(driver)
        (self.dev / "vfio").mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").touch()
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")

    # ---- making it up

    def load(self, driver: str) -> None:
        folder = self.sys / "bus/pci/drivers" / driver
        folder.mkdir(parents=True)
        (folder / "unbind").touch()

    def add(  # a virtio-blk device unless said otherwise
        self,
        address: str = "0000:00:05.0",
        *,
        device: int = 0x1042,
        subsystem: int = 0x1100,
        vendor: int = 0x1AF4,
        pci_class: int = 0x010000,
        driver: str | None = "virtio-pci",
        group: int | None = None,
        group_type: str = "DMA-FQ",
        modern: bool = True,
        disks: tuple[str, ...] = (),
    ) -> str:
        path = self.sys / "devices/pci0000:00" / address
        path.mkdir(parents=True)
        numbers = {"vendor": vendor, "device": device, "subsystem_device": subsystem, "class": pci_class}
        for name, value in numbers.items():
            (path / name).write_text(f"{value:#06x}\n")
        (path / "numa_node").write_text("-1\n")
        (path / "driver_override").write_text("(null)\n")
        (path / "config").write_bytes(config_space(modern))
        (self.sys / "bus/pci/devices" / address).symlink_to(f"../../../devices/pci0000:00/{address}")
        if group is not None:
            folder = self.sys / f"kernel/iommu_groups/{group}"
            (folder / "devices").mkdir(parents=True, exist_ok=True)
            (folder / "type").write_text(group_type + "\n")
            (folder / "devices" / address).symlink_to(f"../../../../devices/pci0000:00/{address}")
            (path / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")
        self._disks[address] = list(disks)
        if driver:
            self._bind(address, driver)
        return address

    def path(self, address: str = "0000:00:05.0") -> Path:
        return self.sys / "devices/pci0000:00" / address

    def partition(self, disk: str, name: str, number: str) -> None:
        self._block(self.sys / "class/block" / disk, name, number)
        (self.sys / "class/block" / name / "partition").write_text("1\n")

    def mount(self, source: str, at: str, number: str = "0:40") -> None:
        with (self.proc / "self/mountinfo").open("a") as table:
            table.write(f"36 25 {number} / {at} rw,relatime shared:1 - ext4 {source} rw\n")

    def process(self, pid: int, program: str, opened: str) -> None:
        folder = self.proc / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(program + "\n")
        (folder / "fd/3").symlink_to(opened)

    def end(self, pid: int) -> None:
        (self.proc / str(pid) / "fd/3").unlink()

    def vanish(self, address: str) -> None:
        (self.sys / "bus/pci/devices" / address).unlink()

    def driver(self, address: str = "0000:00:05.0") -> str | None:
        found = self.path(address) / "driver"
        return found.readlink().name if found.is_symlink() else None

    # ---- the kernel

    def write(self, path: Path, text: str) -> None:
        code = self.errors.get(path.name)
        if code:
            raise OSError(code, os.strerror(code))
        self.writes.append(f"{path.name}={text.strip()}")
        if path.name == "unbind":
            self._unbind(text)
        elif path.name == "drivers_probe":
            override = (self.path(text) / "driver_override").read_text().strip()
            driver = override if override not in {"", "(null)"} else "virtio-pci"
            known = (self.sys / "bus/pci/drivers" / driver).is_dir()
            if known and driver not in self.stubborn and self.driver(text) is None:
                self._bind(text, driver)
        else:
            assert path.name == "driver_override"
            if path.parent.name in self.arriving:  # its probe was under way
                self.arriving.remove(path.parent.name)
                self._bind(path.parent.name, "virtio-pci")
            path.write_text(text.strip() + "\n" if text.strip() else "(null)\n")

    def claim(self, node: Path) -> int:
        if node.name in self.claimed:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return super().claim(node)

    def _bind(self, address: str, driver: str) -> None:
        path = self.path(address)
        (path / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
        if driver == "virtio-pci":
            for disk in self._disks[address]:
                self._block(path / "virtio0/block", disk, f"254:{self._minor}")
                self._minor += 16
        if driver == "vfio-pci" and (path / "iommu_group").is_symlink():
            (self.dev / "vfio" / (path / "iommu_group").readlink().name).touch()

    def _unbind(self, address: str) -> None:
        path = self.path(address)
        for disk in self._disks[address] if self.driver(address) == "virtio-pci" else []:
            for name in [p.name for p in (path / "virtio0/block" / disk).iterdir() if (p / "partition").exists()]:
                (self.sys / "class/block" / name).unlink()
            (self.sys / "class/block" / disk).unlink()
            (path / "virtio0/block" / disk).rename(path / "virtio0" / f"gone-{disk}")
        (path / "driver").unlink()

    def _block(self, parent: Path, name: str, number: str) -> None:
        folder = parent.resolve() / name
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(number + "\n")
        (self.sys / "class/block" / name).symlink_to(folder)
        (self.dev / name).touch()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)
