"""Devices that address DMA memory in their own way: linearly, or page by page."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rig import Rig, in_loop
from virtiod.bdev.probe import Probe
from virtiod.controllers.blk.queue import BlkQueue
from virtiod.core.errors import NoMemory, NotSupported, VirtiodError
from virtiod.core.memory import MIB, DmaMemory, Translation
from virtiod.core.physical import PhysicalPages
from virtiod.virtqueue.spec import RingSpec

PAGE = 2 * MIB
FIRST = 7  # where the device has the first page, in pages; the others come before it, in reverse order


class Physical:
    """DMA memory as a device sees it by physical addresses: what one piece holds for us, lies here and there."""

    def __init__(self, memory: DmaMemory) -> None:
        self._memory = memory
        count = memory.size // PAGE
        self.table = (ctypes.c_uint64 * count)(*((FIRST + count - i) * PAGE for i in range(count)))
        self.translation = Translation(table=ctypes.addressof(self.table), base=memory.base, shift=21)

    def view(self, address: int, size: int) -> memoryview:
        """What the device finds at its address; nothing goes beyond a page."""
        assert address // PAGE == (address + size - 1) // PAGE, f"{size} bytes at {address:#x} lie in two pages"
        page = list(self.table).index(address // PAGE * PAGE)
        return self._memory.view(self._memory.base + page * PAGE + address % PAGE, size)


class Linear:
    """DMA memory of a device that adds a number."""

    DELTA = 0x12340000

    def __init__(self, memory: DmaMemory) -> None:
        self._memory = memory
        self.translation = Translation(delta=self.DELTA)

    def view(self, address: int, size: int) -> memoryview:
        return self._memory.view(address - self.DELTA, size)


@pytest.fixture
def pages_of_2_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    """DMA memory made of them, as far as it knows: this host may have none."""
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name, _flags: create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    monkeypatch.setattr("virtiod.core.memory.page_sizes", lambda _size, _huge: [PAGE])


@pytest.mark.parametrize("kind", [Physical, Linear])
@pytest.mark.parametrize("indirect", [True, False])
@in_loop
async def test_a_device_finds_everything_where_it_was_told(
    pages_of_2_mib: None, kind: type[Physical | Linear], indirect: bool
) -> None:
    rig = Rig(size=64, indirect=indirect)
    seen = kind(rig.memory)
    rig.device.memory = seen
    rig.queue.translate(seen.translation)
    async with rig:
        data = bytes(range(256)) * 1024
        for offset in (0, 512, 4096):
            rig.probe.buffer[: len(data)] = data
            written = rig.submit("write", offset, len(data), segments=[512, len(data) - 1024, 512])
            rig.settle()
            assert written.result() == 0
            rig.probe.buffer[:] = bytes(rig.probe.size)
            read = rig.submit("read", offset, len(data))
            zeroed = rig.submit("write_zeroes", offset + len(data), 4096)
            rig.settle()
            assert (read.result(), zeroed.result()) == (0, 0)
            assert rig.probe.buffer[: len(data)] == data


@pytest.mark.parametrize(("max_segments", "expected"), [(4, [[512, 3584]]), (1, [[512], [3584]])])
@in_loop
async def test_a_segment_is_cut_where_a_page_ends(
    pages_of_2_mib: None, max_segments: int, expected: list[list[int]]
) -> None:
    rig = Rig(size=64, max_segments=max_segments)
    seen = Physical(rig.memory)
    rig.device.memory = seen
    rig.queue.translate(seen.translation)
    async with rig:
        probe = Probe(rig.memory, rig.poller, rig.channels, 2 * PAGE)
        border = -ctypes.addressof(ctypes.c_char.from_buffer(probe.buffer)) % PAGE
        probe.buffer[border - 512 : border + 3584] = os.urandom(4096)
        status = probe.submit("write", 0, 4096, at=border - 512)
        rig.settle()
        assert status.result() == 0
        assert [[n for _, n in request.out] for request in rig.device.requests] == expected
        assert rig.device.disk[:4096] == probe.buffer[border - 512 : border + 3584]
        probe.close()


@in_loop
async def test_a_ring_lies_in_one_page(pages_of_2_mib: None) -> None:
    memory = DmaMemory(16 * MIB)
    rig = Rig()
    translation = Physical(memory).translation
    memory.allocate(PAGE - 8192)
    for size in (4, 256):
        queue = BlkQueue(memory, rig.poller, RingSpec(0, size, max_segments=254))
        queue.translate(translation)
        queue.close()
    queue = BlkQueue(memory, rig.poller, RingSpec(0, 1024, max_segments=254))
    with pytest.raises(NoMemory, match=r"ring of 1024 descriptors needs .* in one page"):
        queue.translate(translation)
    queue.close()
    memory.close()
    async with rig:
        pass


def test_plain_pages_have_no_lasting_addresses() -> None:
    memory = DmaMemory(MIB, 4096)
    with pytest.raises(NotSupported, match="plain pages"):
        PhysicalPages(memory)
    memory.close()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda page: 0, "2 huge pages of DMA memory not present in memory"),
        (lambda page: 1 << 63, "hides physical addresses.*CAP_SYS_ADMIN"),
        (lambda page: 1 << 63 | 513, "not made of huge pages"),
    ],
)
def test_physical_addresses_that_can_not_be_known_are_an_error(
    pages_of_2_mib: None, tmp_path: Path, entry: Callable[[int], int], message: str
) -> None:
    memory = DmaMemory(2 * PAGE)
    with pytest.raises(VirtiodError, match=message):
        PhysicalPages(memory, pagemap(tmp_path, memory, entry)).extend()
    memory.close()


def test_the_table_grows_with_the_memory(pages_of_2_mib: None, tmp_path: Path) -> None:
    memory = DmaMemory(2 * PAGE)
    physical = PhysicalPages(memory, pagemap(tmp_path, memory, lambda page: 1 << 63 | 512 * (9 - page)))
    physical.extend()
    translation = physical.translation()
    assert translation.delta_at(memory.base + 5) + memory.base == 9 * PAGE
    assert translation.delta_at(memory.base + PAGE) + memory.base + PAGE == 8 * PAGE
    beyond = memory.base + 2 * PAGE
    assert translation.delta_at(beyond) + beyond == (1 << 64) - 1  # no device has that
    memory.allocate(2 * PAGE, PAGE)
    memory.allocate(PAGE)
    physical.extend()
    assert translation.delta_at(beyond) + beyond == 7 * PAGE
    memory.close()


def pagemap(tmp_path: Path, memory: DmaMemory, entry: Callable[[int], int]) -> Path:
    """Like /proc/self/pagemap where the first pages of the memory are; full of holes."""
    path = tmp_path / "pagemap"
    with path.open("wb") as file:
        for page in range(6):
            file.seek((memory.base + page * PAGE) // 4096 * 8)
            file.write(struct.pack("=Q", entry(page)))
    return path
