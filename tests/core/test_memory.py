"""DMA memory: it grows and never moves; what was handed out is zeroed, aligned and nobody else's."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtiod.core.errors import InvalidArgument, NoMemory
from virtiod.core.memory import MIB, RESERVED, DmaMemory, Region, choose_page_size

PAGE = 4096


@pytest.fixture
def memory() -> Iterator[DmaMemory]:
    memory = DmaMemory(MIB, PAGE)
    yield memory
    memory.close()


def test_it_grows_by_regions_that_lie_behind_each_other(memory: DmaMemory) -> None:
    told: list[Region] = []
    end = memory.on_grow(told.append)
    first = memory.regions[0]
    memory.view(first.address, 4)[:] = b"stay"
    addresses = [memory.allocate(512 * 1024) for _ in range(5)]
    assert told == memory.regions[1:]
    assert told
    for before, after in zip(memory.regions, memory.regions[1:], strict=False):
        assert after.address == before.address + before.size
        assert after.offset == before.offset + before.size
    assert memory.size == os.fstat(memory.fd).st_size
    assert memory.regions[0] == first
    assert len(set(addresses)) == 5
    end()
    memory.allocate(2 * MIB)
    assert told == memory.regions[1 : len(told) + 1]


def test_an_allocation_larger_than_a_region_gets_one_of_its_own(memory: DmaMemory) -> None:
    address = memory.allocate(5 * MIB + 1)
    view = memory.view(address, 5 * MIB + 1)
    view[-1] = 7
    assert memory.size >= 6 * MIB


def test_the_file_shows_what_the_memory_holds(memory: DmaMemory) -> None:
    memory.allocate(2 * MIB)
    address = memory.allocate(PAGE)
    memory.view(address, 5)[:] = b"hello"
    region = next(r for r in memory.regions if r.address <= address < r.address + r.size)
    assert os.pread(memory.fd, 5, region.offset + address - region.address) == b"hello"


def test_no_peer_can_shrink_it(memory: DmaMemory) -> None:
    assert fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 0)


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE, 0x10])  # 10h: F_SEAL_FUTURE_WRITE
def test_no_peer_can_seal_it_and_it_goes_on_growing(memory: DmaMemory, seal: int) -> None:
    peer = os.dup(memory.fd)  # what any target has got
    with pytest.raises(PermissionError):
        fcntl.fcntl(peer, fcntl.F_ADD_SEALS, seal)
    os.close(peer)
    address = memory.allocate(3 * MIB)
    memory.view(address, 3 * MIB)[-1] = 7
    assert memory.size >= 4 * MIB


@pytest.mark.parametrize("length", [2 * MIB, RESERVED * 2])
def test_a_peer_that_makes_the_file_longer_does_not_keep_it_from_growing(memory: DmaMemory, length: int) -> None:
    peer = os.dup(memory.fd)
    os.ftruncate(peer, length)
    os.close(peer)
    for _ in range(4):
        address = memory.allocate(MIB)
        memory.view(address, MIB)[-1] = 7
    assert memory.size >= 4 * MIB


def test_memory_that_was_used_before_is_zeroed(memory: DmaMemory) -> None:
    address = memory.allocate(8192)
    memory.view(address, 8192)[:] = b"\xff" * 8192
    memory.free(address)
    again = memory.allocate(8192)
    assert again == address
    assert bytes(memory.view(again, 8192)) == bytes(8192)


def test_freed_neighbours_become_one_piece(memory: DmaMemory) -> None:
    pieces = [memory.allocate(256 * 1024) for _ in range(4)]
    for address in (pieces[1], pieces[3], pieces[2], pieces[0]):
        memory.free(address)
    assert memory.used == 0
    assert memory.allocate(MIB) == pieces[0]
    assert len(memory.regions) == 1


def test_more_than_the_reserved_addresses_is_refused_and_nothing_changes(memory: DmaMemory) -> None:
    before = (memory.size, list(memory.regions))
    with pytest.raises(NoMemory, match="256 GiB"):
        memory.allocate(RESERVED)
    assert (memory.size, memory.regions) == before
    memory.allocate(PAGE)


@pytest.mark.parametrize("size", [0, -1])
def test_memory_of_no_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match=str(size)):
        DmaMemory(size)


@pytest.mark.parametrize("size", [0, -64])
def test_an_allocation_of_nothing_is_refused(memory: DmaMemory, size: int) -> None:
    with pytest.raises(InvalidArgument, match=str(size)):
        memory.allocate(size)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 300_000), st.sampled_from([64, 512, PAGE, 65536])),
        max_size=40,
    )
)
def test_allocations_never_overlap_and_are_aligned_and_zero(steps: list[tuple[bool, int, int]]) -> None:
    memory = DmaMemory(MIB, PAGE)
    held: dict[int, int] = {}
    try:
        for release, size, align in steps:
            if release and held:
                address = sorted(held)[size % len(held)]
                memory.free(address)
                del held[address]
                continue
            address = memory.allocate(size, align)
            assert address % align == 0
            view = memory.view(address, size)
            assert not any(view[:64]) and not any(view[-64:])
            view[:] = b"\xaa" * size
            assert all(address + size <= a or a + n <= address for a, n in held.items())
            held[address] = size
        for address in held:
            memory.free(address)
        assert memory.used == 0
    finally:
        memory.close()


# ---- page sizes


def fake_sysfs(path: Path, **free: str) -> Path:
    for name, text in free.items():
        directory = path / f"hugepages-{name[1:]}kB"
        directory.mkdir()
        (directory / "free_hugepages").write_text(text)
    return path


@pytest.mark.parametrize(
    ("size", "free", "page"),
    [
        (64 * MIB, {}, PAGE),
        (64 * MIB, {"_2048": "32\n"}, 2 * MIB),
        (64 * MIB, {"_2048": "31\n"}, PAGE),
        (64 * MIB + 1, {"_2048": "32\n"}, PAGE),
        (64 * MIB, {"_2048": "32\n", "_1048576": "1\n"}, 1 << 30),
        (3 << 30, {"_2048": "9999\n", "_1048576": "2\n"}, 2 * MIB),
        (64 * MIB, {"_2048": "garbage\n"}, PAGE),
        (64 * MIB, {"_2048": ""}, PAGE),
    ],
)
def test_the_largest_pages_of_which_enough_are_free_are_chosen(
    size: int, free: dict[str, str], page: int, tmp_path: Path
) -> None:
    assert choose_page_size(size, fake_sysfs(tmp_path, **free)) == page


def test_huge_pages_lie_at_multiples_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses them elsewhere; this host may have none, so the file here has plain ones."""
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name, _flags: create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    for page in (2 * MIB, 1 << 30):
        memory = DmaMemory(MIB, page)
        assert memory.regions[0].address % page == 0
        assert memory.regions[0].size == page
        memory.close()
