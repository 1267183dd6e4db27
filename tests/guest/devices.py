"""What is plugged into the guest. Known to both sides: the host makes it, the tests in the guest look for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
VARIANTS = ("plain", "iommu")
PATTERN_BYTES = 1 * MIB  # from its start on, a new disk holds its pattern; then zeroes
HOT_PORTS = {"hot0": 0x0C, "hot1": 0x0D}  # empty root ports, by their slots


def pattern(name: str, offset: int, length: int) -> bytes:
    """What the host put into a new disk: each 512 bytes say whose they are, and where."""
    sectors = range(offset // 512, -(-(offset + length) // 512))
    data = b"".join(f"{name} {sector}\n".encode().ljust(512, b".") for sector in sectors)
    start = offset % 512
    return data[start : start + length]


@dataclass(frozen=True)
class Disk:
    """A raw file of the host. Its name is its serial too."""

    name: str
    size: int = 16 * MIB
    read_only: bool = False

    def create(self, run_dir: Path) -> Path:
        path = run_dir / f"{self.name}.img"
        with path.open("wb") as file:
            file.write(pattern(self.name, 0, PATTERN_BYTES))
            file.truncate(self.size)
        return path

    def blockdev(self, run_dir: Path) -> dict[str, object]:
        """QEMU's node, for the command line and the monitor."""
        return {
            "driver": "raw",
            "node-name": f"n-{self.name}",
            "read-only": self.read_only,
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(run_dir / f"{self.name}.img")},
        }


def root_port(name: str, slot: int) -> str:
    """For -device."""
    return f"pcie-root-port,id={name},bus=pcie.0,addr={slot:#x},chassis={slot}"


@dataclass(frozen=True)
class Device:
    """A PCI function in a slot of bus 0, or alone behind a root port in that slot.

    options: of QEMU's device, without its id, place and drive, and what follows from the variant.
    below: the disks on a SCSI controller, by target and LUN.
    """

    name: str
    slot: int
    options: str
    disk: Disk | None = None
    below: tuple[tuple[int, int, Disk], ...] = ()
    variants: tuple[str, ...] = VARIANTS
    behind_port: bool = False
    function: int = 0

    @property
    def disks(self) -> list[Disk]:
        return ([self.disk] if self.disk else []) + [disk for _, _, disk in self.below]

    def arguments(self, variant: str) -> Iterator[str]:
        """For -device."""
        options = f"{self.options},id={self.name}"
        if self.behind_port:
            yield root_port(f"port-{self.name}", self.slot)
            options += f",bus=port-{self.name}"
        else:
            options += f",bus=pcie.0,addr={self.slot:#x}.{self.function}"
        if self.disk:
            options += f",drive=n-{self.disk.name},serial={self.disk.name}"
        if self.options.startswith("virtio-") and variant == "iommu" and "disable-modern" not in self.options:
            options += ",iommu_platform=on"
        yield options
        for target, lun, disk in self.below:
            yield (
                f"scsi-hd,bus={self.name}.0,channel=0,scsi-id={target},lun={lun},drive=n-{disk.name},"
                f"serial={disk.name},device_id={disk.name}"
            )


BLK = "virtio-blk-pci,disable-legacy=on"
SCSI_DISKS = ((0, 0, Disk("scsi00")), (0, 1, Disk("scsi01")), (1, 0, Disk("scsi10")))

# fmt: off
DEVICES = (
    Device("modern", 0x03, f"{BLK},num-queues=1", Disk("modern")),
    # QEMU knows no transitional device that honours an IOMMU.
    Device("transitional", 0x04, "virtio-blk-pci,disable-legacy=off,num-queues=1", Disk("transitional"),
           variants=("plain",)),
    Device("rootport", 0x05, f"{BLK},num-queues=1", Disk("rootport"), behind_port=True),
    Device("blocks4k", 0x06, f"{BLK},num-queues=1,logical_block_size=4096,physical_block_size=4096", Disk("blocks4k")),
    Device("readonly", 0x07, f"{BLK},num-queues=1", Disk("readonly", read_only=True)),
    Device("twoqueues", 0x08, f"{BLK},num-queues=2", Disk("twoqueues")),
    Device("scsi", 0x09, "virtio-scsi-pci,disable-legacy=on,num_queues=2", below=SCSI_DISKS),
    Device("legacy", 0x0A, "virtio-blk-pci,disable-legacy=off,disable-modern=on,num-queues=1", Disk("legacy")),
    # Tests may write what they like to "busy". "taken" is test_disks.py's, nobody writes to "modern".
    Device("busy", 0x0F, f"{BLK},num-queues=1", Disk("busy")),
    Device("taken", 0x10, f"{BLK},num-queues=1", Disk("taken")),
    Device("random", 0x0B, "virtio-rng-pci,disable-legacy=on"),
    # Nothing isolates functions of a device from each other: they share an IOMMU group.
    Device("pair0", 0x0E, f"{BLK},num-queues=1,multifunction=on", Disk("pair0"), variants=("iommu",)),
    Device("pair1", 0x0E, f"{BLK},num-queues=1", Disk("pair1"), variants=("iommu",), function=1),
)
# fmt: on
