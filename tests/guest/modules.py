"""The kernel's modules that the guest carries: those asked for, and those that they need."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator
from pathlib import Path

WANTED = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"),
    *("vfat", "nls_cp437", "nls_ascii", "loop"),
    *("vfio-pci", "vfio_iommu_type1", "uio_pci_generic", "nbd"),
)


def plain_name(name: str) -> str:
    """Dashes and underscores mean the same in a module's name."""
    return name.replace("-", "_")


def read(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def needs(module: bytes) -> list[str]:
    """The names after "depends=" in the module's .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in found[1].decode().split(",") if name] if found else []


def select(root: Path) -> Iterator[tuple[str, bytes, list[str]]]:
    """Name, content and needs of each module below `root`; what the kernel has built in is left out."""
    files = {plain_name(path.name.partition(".ko")[0]): path for path in root.rglob("*.ko*")}
    waiting = [plain_name(name) for name in WANTED]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        content = read(files[name])
        wanted = [plain_name(need) for need in needs(content)]
        waiting += wanted
        yield name, content, wanted


def dependency_table(found: dict[str, list[str]]) -> str:
    """What depmod would write into modules.dep: per module all that must be loaded before it, the last one first."""

    def before(name: str) -> list[str]:
        order = [one for need in found[name] for one in (*before(need), need)]
        return list(dict.fromkeys(order))

    return "".join(f"{name}.ko:{''.join(f' {need}.ko' for need in reversed(before(name)))}\n" for name in sorted(found))
