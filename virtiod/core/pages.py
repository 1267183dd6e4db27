"""Huge pages: which sizes a host has enough of.

A page that some process has mapped and not yet touched is reserved for it: the kernel counts it as free, but gives it
to nobody else.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Literal, get_args

from virtiod.core.counted import counted
from virtiod.core.errors import NoMemory

Huge = Literal["never", "try", "need"]
HUGE: tuple[str, ...] = get_args(Huge)
HUGE_PAGES = Path("/sys/kernel/mm/hugepages")
SIZES = (1 << 30, 2 << 20)  # bytes, the best first


def available(page: int, sysfs: Path = HUGE_PAGES) -> int:
    """How many huge pages of a size (bytes) can be had: free ones that are not reserved for anybody."""
    pool = sysfs / f"hugepages-{page // 1024}kB"
    return max(0, _number(pool / "free_hugepages") - _number(pool / "resv_hugepages"))


def page_sizes(size: int, huge: Huge = "try", sysfs: Path = HUGE_PAGES) -> list[int]:
    """The page sizes (bytes) to try for size bytes, in this order: those of which there are enough, and plain pages.

    never: plain pages only; need: huge pages only. Raises NoMemory if nothing is left.
    """
    enough = [page for page in SIZES if available(page, sysfs) >= -(-size // page)] if huge != "never" else []
    if huge == "need" and not enough:
        raise NoMemory(f"--huge need: {shortage(size, sysfs)}. Reserve more, or start with a smaller -s")
    return enough if huge == "need" else [*enough, mmap.PAGESIZE]


def shortage(size: int, sysfs: Path = HUGE_PAGES) -> str:
    """Says how many huge pages size bytes need, and how many there are."""
    counts = (
        f"{counted(-(-size // page), 'huge page')} of {page // 1024} KiB ({available(page, sysfs)} free)"
        for page in reversed(SIZES)
    )
    return f"it takes {' or '.join(counts)}"


def has_any(sysfs: Path = HUGE_PAGES) -> bool:
    """Whether the host has huge pages at all, used or not."""
    return any(_number(sysfs / f"hugepages-{page // 1024}kB" / "nr_hugepages") for page in SIZES)


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
