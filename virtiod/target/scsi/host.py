"""The targets and LUNs of the embedded SCSI target, as all its queues see them (virtio 1.2 §5.6.6.1)."""

from __future__ import annotations

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.unistd import write
from cython.cimports.virtiod.core.atomics import vd_fetch_add_u64, vd_load_ptr, vd_store_ptr, vd_store_u32
from cython.cimports.virtiod.core.types import BytePtr, PollerPtr
from cython.cimports.virtiod.target.scsi.host import (
    MAX_CDB,
    MAX_QUEUES,
    MAX_SENSE,
    MAX_TARGETS,
    NO_LUN,
    ScsiHost,
    ScsiHostPtr,
)
from cython.cimports.virtiod.target.scsi.lun import MAX_LUNS, ScsiTarget, ScsiTargetPtr, TargetLun


def lun_number(lun: BytePtr) -> uint32_t:
    """The LUN in an address of the form 1, target, single-level LUN structure, zeroes. NO_LUN for others."""
    if lun[4] | lun[5] | lun[6] | lun[7]:
        return NO_LUN
    if lun[2] == 0 or lun[2] >> 6 == 1:  # peripheral device, flat space addressing (SAM-5 §4.7.7)
        return cython.cast(uint32_t, lun[2] & 0x3F) << 8 | lun[3]
    return NO_LUN


def host_target(h: ScsiHostPtr, lun: BytePtr) -> ScsiTargetPtr:
    """The target in an address, NULL if there is none."""
    if lun[0] != 1:
        return cython.NULL
    return cython.cast(ScsiTargetPtr, vd_load_ptr(cython.address(h.targets[lun[1]])))


def host_wake(h: ScsiHostPtr) -> None:
    """Have all request queues look at the host."""
    one: uint64_t = 1
    i: uint32_t
    p: PollerPtr
    for i in range(cython.cast(uint32_t, MAX_QUEUES)):
        p = cython.cast(PollerPtr, vd_load_ptr(cython.address(h.links[i].poller)))
        if p != cython.NULL:
            write(p.evfd, cython.address(one), 8)


class TargetHost:
    """The targets and LUNs that a device's request queues serve. Event-loop thread only.

    LUNs that were removed are kept until the host goes: a poller may still be at them.
    """

    host: ScsiHostPtr
    kept: dict[object, object]

    def __cinit__(self) -> None:
        i: uint32_t
        self.kept = {}
        self.host = cython.cast(ScsiHostPtr, calloc(1, cython.sizeof(ScsiHost)))
        if self.host == cython.NULL:
            raise MemoryError
        for i in range(cython.cast(uint32_t, MAX_QUEUES)):
            self.host.links[i].host = self.host

    def sizes(self, cdb_size: int, sense_size: int) -> None:
        """What requests hold, in bytes, from the next on. ValueError for what can't be."""
        if not 16 <= cdb_size <= MAX_CDB or not 18 <= sense_size <= MAX_SENSE:
            raise ValueError(f"CDBs of {cdb_size} bytes with {sense_size} bytes of sense data")
        vd_store_u32(cython.address(self.host.cdb_size), cdb_size)
        vd_store_u32(cython.address(self.host.sense_size), sense_size)

    def add_target(self, number: int, silent: bool = False) -> None:
        """A target without LUNs, or the silence of one that is there."""
        if self.host.targets[number] == cython.NULL:
            self.host.targets[number] = cython.cast(ScsiTargetPtr, calloc(1, cython.sizeof(ScsiTarget)))
            if self.host.targets[number] == cython.NULL:
                raise MemoryError
        vd_store_u32(cython.address(self.host.targets[number].silent), silent)

    def add_lun(self, target: int, lun: TargetLun) -> None:
        """Serve it from now on. ValueError when the target has no room."""
        t: ScsiTargetPtr = self.host.targets[target]
        i: uint32_t = 0
        while i < t.n and t.luns[i] != cython.NULL:
            i += 1
        if i == MAX_LUNS:
            raise ValueError(f"target {target} has {MAX_LUNS} LUNs already")
        self.kept[len(self.kept)] = lun
        vd_store_ptr(cython.address(t.luns[i]), cython.address(lun.lun))
        if i == t.n:
            vd_store_u32(cython.address(t.n), i + 1)

    def remove_lun(self, target: int, number: int) -> None:
        """Serve it no more; what is held for it is aborted. Targets without LUNs stay."""
        t: ScsiTargetPtr = self.host.targets[target]
        i: uint32_t
        for i in range(t.n):
            if t.luns[i] != cython.NULL and t.luns[i].number == number:
                vd_store_ptr(cython.address(t.luns[i]), cython.NULL)
        vd_fetch_add_u64(cython.address(self.host.purge), 1)
        host_wake(self.host)

    def __dealloc__(self) -> None:
        i: uint32_t
        if self.host != cython.NULL:
            for i in range(cython.cast(uint32_t, MAX_TARGETS)):
                free(self.host.targets[i])
            free(self.host)
