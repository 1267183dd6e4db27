"""Device registers that may be unmapped while a thread reads or writes them.

When a device is removed, the kernel unmaps its registers, and the next access is a SIGBUS, in whatever thread it
happens: a poller that rings a doorbell, the control plane that reads a status. The signal handler then replaces the
guarded range by pages of ones, one by one, and the thread continues. It reads all ones, as from a slot without a
device; what it writes has no effect.
"""

from __future__ import annotations

import os

import cython
from cython.cimports.virtiod.transports.pci.mmio import guard_add, guard_install, guard_lost, guard_remove


class Guard:
    """Guards mapped registers (address and size in bytes, of whole pages) until close(). Control plane only."""

    place: cython.int

    def __cinit__(self) -> None:
        self.place = -1

    def __init__(self, address: int, size: int) -> None:
        ret: cython.int = guard_install()
        if ret == 0:
            ret = guard_add(address, size)
        if ret < 0:
            raise OSError(-ret, os.strerror(-ret))
        self.place = ret

    @property
    def lost(self) -> bool:
        """Whether an access found the registers gone."""
        return self.place >= 0 and guard_lost(self.place) != 0

    def close(self) -> None:
        """Ends the guard; call it before the range is unmapped."""
        if self.place >= 0:
            guard_remove(self.place)
            self.place = -1
