"""DMA memory: it grows and never moves; what was handed out is zeroed, aligned and nobody else's."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtiod.core import libc
from virtiod.core import memory as module
from virtiod.core.errors import InvalidArgument, NoMemory, NotSupported
from virtiod.core.memory import MIB, RESERVED, DmaMemory, Region
from virtiod.core.pages import Huge

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


def test_huge_pages_lie_at_multiples_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses them elsewhere; this host may have none, so the file here has plain ones."""
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name, _flags: create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    for page in (2 * MIB, 1 << 30):
        memory = DmaMemory(MIB, page)
        assert memory.regions[0].address % page == 0
        assert memory.regions[0].size == page
        memory.close()


# ---- shortages: in files of plain pages here, as this host may have no huge ones


class HugeHost:
    """A host with some huge pages of 2 MiB, of which others take some at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
        self.left = pages
        self._fallocate, self._punch = os.posix_fallocate, libc.punch_hole
        create = os.memfd_create
        monkeypatch.setattr(os, "memfd_create", lambda name, _: create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        monkeypatch.setattr(os, "posix_fallocate", self.take)
        monkeypatch.setattr(libc, "punch_hole", self.give_back)
        monkeypatch.setattr(module, "page_sizes", lambda _size, huge: [2 * MIB] if huge == "need" else [2 * MIB, PAGE])

    def take(self, fd: int, offset: int, size: int) -> None:
        """As the kernel does: what it could take before it failed is taken."""
        pages = min(self.left, size // (2 * MIB))
        self.left -= pages
        if pages:
            self._fallocate(fd, offset, pages * 2 * MIB)
        if pages < size // (2 * MIB):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def give_back(self, fd: int, offset: int, size: int) -> None:
        before = os.fstat(fd).st_blocks
        self._punch(fd, offset, size)
        self.left += (before - os.fstat(fd).st_blocks) * 512 // (2 * MIB)


def pages_of(memory: DmaMemory) -> list[int]:
    """Of each region."""
    return [next(file.page_size for file in memory._files if file.fd == region.fd) for region in memory.regions]


def test_pages_that_went_to_another_process_are_an_error_or_plain_pages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = HugeHost(monkeypatch, 3)
    with pytest.raises(NoMemory, match=r"grow DMA memory by 8 MiB of 2048 KiB pages .*: No space left on device"):
        DmaMemory(8 * MIB, huge="need")
    memory = DmaMemory(8 * MIB, huge="try")
    assert pages_of(memory) == [PAGE]
    assert "smaller pages are tried" in caplog.text
    memory.close()
    assert host.left == 3, "what was taken before it failed was given back"


@pytest.mark.parametrize("huge", ["need", "try"])
def test_growth_beyond_the_huge_pages_is_an_error_or_of_plain_pages(
    monkeypatch: pytest.MonkeyPatch, huge: Huge
) -> None:
    host = HugeHost(monkeypatch, 5)
    memory = DmaMemory(4 * MIB, huge=huge)
    first = memory.allocate(4 * MIB)
    memory.view(first, 4)[:] = b"stay"
    told: list[Region] = []
    memory.on_grow(told.append)
    memory.allocate(MIB)
    assert host.left == 1
    if huge == "need":
        with pytest.raises(NoMemory):
            memory.allocate(4 * MIB)
        assert (host.left, memory.size, len(told)) == (1, 8 * MIB, 1)
        host.left = 9
    address = memory.allocate(4 * MIB)
    memory.view(address, 4)[:] = b"more"
    assert pages_of(memory)[-1] == (2 * MIB if huge == "need" else PAGE)
    assert told == memory.regions[1:]
    for before, after in zip(memory.regions, memory.regions[1:], strict=False):
        assert after.address == before.address + before.size
        assert after.offset == (before.offset + before.size if after.fd == before.fd else 0)
    region = next(r for r in memory.regions if r.address <= address < r.address + r.size)
    assert os.pread(region.fd, 4, region.offset + address - region.address) == b"more"
    assert bytes(memory.view(first, 4)) == b"stay"
    memory.close()


def test_memory_with_physical_addresses_grows_by_huge_pages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    HugeHost(monkeypatch, 2)
    memory = DmaMemory(4 * MIB)
    memory.keep_huge()
    with pytest.raises(NoMemory):
        memory.allocate(5 * MIB)
    memory.close()
    memory = DmaMemory(4 * MIB)
    memory.allocate(5 * MIB)
    with pytest.raises(NotSupported, match="plain pages, which have no lasting physical addresses"):
        memory.keep_huge()
    memory.close()
