"""Which sizes of pages are tried, by what the host has."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtiod.core.errors import NoMemory
from virtiod.core.memory import MIB
from virtiod.core.pages import Huge, has_any, page_sizes

PAGE = 4096
GIB = 1 << 30


def host(path: Path, **pools: str) -> Path:
    """By page size in KiB: free and reserved huge pages, and all."""
    for name, text in pools.items():
        pool = path / f"hugepages-{name[1:]}kB"
        pool.mkdir()
        for file, number in zip(("free", "resv", "nr"), text.split(), strict=False):
            (pool / f"{file}_hugepages").write_text(f"{number}\n")
    return path


@pytest.mark.parametrize(
    ("size", "pools", "sizes"),
    [
        (64 * MIB, {}, [PAGE]),
        (64 * MIB, {"_2048": "32 0"}, [2 * MIB, PAGE]),
        (64 * MIB, {"_2048": "32"}, [2 * MIB, PAGE]),
        (64 * MIB, {"_2048": "31 0"}, [PAGE]),
        (64 * MIB, {"_2048": "63 32"}, [PAGE]),
        (64 * MIB, {"_2048": "64 32"}, [2 * MIB, PAGE]),
        (64 * MIB, {"_2048": "2 9"}, [PAGE]),
        (64 * MIB + 1, {"_2048": "32 0"}, [PAGE]),
        (64 * MIB, {"_2048": "32 0", "_1048576": "1 0"}, [GIB, 2 * MIB, PAGE]),
        (64 * MIB, {"_2048": "32 0", "_1048576": "1 1"}, [2 * MIB, PAGE]),
        (3 * GIB, {"_2048": "9999 0", "_1048576": "2 0"}, [2 * MIB, PAGE]),
        (64 * MIB, {"_2048": "garbage 0"}, [PAGE]),
        (64 * MIB, {"_2048": ""}, [PAGE]),
    ],
)
def test_pages_that_others_have_reserved_do_not_count(
    size: int, pools: dict[str, str], sizes: list[int], tmp_path: Path
) -> None:
    assert page_sizes(size, "try", host(tmp_path, **pools)) == sizes


@pytest.mark.parametrize(("huge", "sizes"), [("never", [PAGE]), ("try", [2 * MIB, PAGE]), ("need", [2 * MIB])])
def test_the_operator_says_which_are_allowed(huge: Huge, sizes: list[int], tmp_path: Path) -> None:
    assert page_sizes(64 * MIB, huge, host(tmp_path, _2048="32 0")) == sizes


def test_what_is_missing_is_told_in_numbers(tmp_path: Path) -> None:
    sysfs = host(tmp_path, _2048="40 9 50")
    with pytest.raises(NoMemory) as caught:
        page_sizes(64 * MIB, "need", sysfs)
    assert str(caught.value) == (
        "--huge need: it takes 32 huge pages of 2048 KiB (31 free) or 1 huge page of 1048576 KiB (0 free). Reserve "
        "more, or start with a smaller -s"
    )
    assert has_any(sysfs)
    assert not has_any(tmp_path / "none")
