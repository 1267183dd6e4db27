"""Registers that vanish. A file that is cut short does what a device does that is pulled out: SIGBUS."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from virtiod.core.errors import DeviceError
from virtiod.transports.pci.registers import MappedWindow
from virtiod.transports.pci.wire import Place

PAGE = mmap.PAGESIZE
MANY = 2048


@pytest.fixture
def fd() -> object:
    fd = os.memfd_create("registers")
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def big() -> Iterator[int]:
    fd = os.memfd_create("registers")
    yield fd
    os.close(fd)


def test_each_access_has_its_width_and_place(fd: int) -> None:
    window = MappedWindow(fd, PAGE, Place(0, 0x108, 16))
    window.write(4, 0, 0x11223344)
    window.write(2, 6, 0x5566)
    window.write(1, 9, 0x77)
    assert os.pread(fd, 16, PAGE + 0x108) == bytes.fromhex("44332211 0000 6655 00 77 000000000000")
    assert (window.read(4, 0), window.read(2, 2), window.read(1, 9)) == (0x11223344, 0x1122, 0x77)
    window.close()


def test_registers_that_vanish_read_as_ones_and_can_be_written(fd: int) -> None:
    window = MappedWindow(fd, 0, Place(0, PAGE - 8, 16))  # across two pages
    assert window.read(4, 0) == 0
    assert not window.lost
    os.ftruncate(fd, 0)
    assert window.read(4, 0) == 0xFFFFFFFF
    assert window.lost
    window.write(2, 12, 5)
    assert window.read(1, 15) == 0xFF
    window.close()


def test_no_thread_sees_anything_but_registers_and_ones(big: int) -> None:
    memchr = ctypes.CDLL(None).memchr  # without the GIL
    memchr.restype = ctypes.c_void_p
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    zeros: list[int] = []

    def look(window: MappedWindow, enough: threading.Event) -> None:
        while not enough.is_set():
            if memchr(window.address, 0, MANY * PAGE):
                zeros.append(1)

    for _ in range(10):
        os.pwrite(big, b"\xaa" * MANY * PAGE, 0)
        window, enough = MappedWindow(big, 0, Place(0, 0, MANY * PAGE)), threading.Event()
        threads = [threading.Thread(target=look, args=(window, enough)) for _ in range(3)]
        for thread in threads:
            thread.start()
        os.ftruncate(big, 0)
        while window.read(4, (MANY - 1) * PAGE) != 0xFFFFFFFF:
            pass
        enough.set()
        for thread in threads:
            thread.join()
        assert window.lost
        window.close()
    assert not zeros


def test_one_window_that_vanishes_leaves_the_others(fd: int) -> None:
    kept, gone = MappedWindow(fd, 0, Place(0, 0, 4)), MappedWindow(fd, 0, Place(0, 2 * PAGE, 4))
    os.ftruncate(fd, PAGE)
    assert gone.read(4, 0) == 0xFFFFFFFF
    assert (kept.read(4, 0), kept.lost) == (0, False)
    gone.close()
    again = MappedWindow(fd, 0, Place(0, 0, 4))  # perhaps where the other was
    assert not again.lost
    again.close()
    kept.close()


def test_what_can_not_be_mapped_is_an_error() -> None:
    with pytest.raises(DeviceError, match="map BAR 4: "):
        MappedWindow(-2, 0, Place(4, 0, 4096))


@pytest.mark.programs
def test_a_bus_error_anywhere_else_is_still_one() -> None:
    program = (
        "import mmap, os; from virtiod.transports.pci.registers import MappedWindow;"
        "from virtiod.transports.pci.wire import Place;"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 8192);"
        "window = MappedWindow(fd, 0, Place(0, 0, 4)); other = mmap.mmap(fd, 4096, offset=4096);"
        "os.ftruncate(fd, 0); print(window.read(4, 0), flush=True); other[0]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{0xFFFFFFFF}\n"
    assert done.returncode == -signal.SIGBUS
