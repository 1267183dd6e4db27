"""The targets and LUNs of the embedded SCSI target, as all its queues see them (virtio 1.2 §5.6.6.1)."""

from __future__ import annotations

from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.posix.unistd import write
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, PollerPtr
from cython.cimports.virtiod.scsi.spec import FIXED_SENSE, MIN_CDB
from cython.cimports.virtiod.target.scsi.host import MAX_CDB, MAX_QUEUES, MAX_TARGETS, NO_LUN, ScsiHost, ScsiHostPtr
from cython.cimports.virtiod.target.scsi.lun import MAX_LUNS, ScsiTarget, ScsiTargetPtr, TargetLun
from cython.cimports.virtiod.virtio.scsi import SENSE_ROOM


def lun_number(lun: BytePtr) -> uint32_t:
    """The LUN in an address of the form 1, target, single-level LUN structure, zeroes. NO_LUN for others."""
    if lun[4] | lun[5] | lun[6] | lun[7]:
        return NO_LUN
    if lun[2] == 0 or lun[2] >> 6 == 1:  # peripheral device, flat space addressing (SAM-5 §4.7.7)
        return cast(uint32_t, lun[2] & 0x3F) << 8 | lun[3]
    return NO_LUN


def host_target(h: ScsiHostPtr, lun: BytePtr) -> ScsiTargetPtr:
    """The target in an address, NULL if there is none."""
    if lun[0] != 1:
        return NULL
    return cast(ScsiTargetPtr, atomics.load_ptr(address(h.targets[lun[1]])))


def host_wake(h: ScsiHostPtr) -> None:
    """Have all request queues look at the host."""
    one: uint64_t = 1
    i: uint32_t
    p: PollerPtr
    for i in range(cast(uint32_t, MAX_QUEUES)):
        p = cast(PollerPtr, atomics.load_ptr(address(h.links[i].poller)))
        if p != NULL:
            write(p.evfd, address(one), 8)


class TargetHost:
    """The targets and LUNs that a device's request queues serve. Event-loop thread only.

    LUNs that were removed are kept until the host goes: a poller may still be at them.
    """

    host: ScsiHostPtr
    kept: dict[object, object]

    def __cinit__(self) -> None:
        i: uint32_t
        self.kept = {}
        self.host = cast(ScsiHostPtr, calloc(1, sizeof(ScsiHost)))
        if self.host == NULL:
            raise MemoryError
        for i in range(cast(uint32_t, MAX_QUEUES)):
            self.host.links[i].host = self.host

    def sizes(self, cdb_size: int, sense_size: int) -> None:
        """What requests hold, in bytes, from the next on. ValueError for what can't be."""
        if not MIN_CDB <= cdb_size <= MAX_CDB or not FIXED_SENSE <= sense_size <= SENSE_ROOM:
            raise ValueError(f"CDBs of {cdb_size} bytes with {sense_size} bytes of sense data")
        atomics.store_u32(address(self.host.cdb_size), cdb_size)
        atomics.store_u32(address(self.host.sense_size), sense_size)

    def add_target(self, number: int, silent: bool = False) -> None:
        """A target without LUNs, or the silence of one that is there."""
        if self.host.targets[number] == NULL:
            self.host.targets[number] = cast(ScsiTargetPtr, calloc(1, sizeof(ScsiTarget)))
            if self.host.targets[number] == NULL:
                raise MemoryError
        atomics.store_u32(address(self.host.targets[number].silent), silent)

    def add_lun(self, target: int, lun: TargetLun) -> None:
        """Serve it from now on. ValueError when the target has no room."""
        t: ScsiTargetPtr = self.host.targets[target]
        i: uint32_t = 0
        while i < t.n and t.luns[i] != NULL:
            i += 1
        if i == MAX_LUNS:
            raise ValueError(f"target {target} has {MAX_LUNS} LUNs already")
        self.kept[len(self.kept)] = lun
        atomics.store_ptr(address(t.luns[i]), address(lun.lun))
        if i == t.n:
            atomics.store_u32(address(t.n), i + 1)

    def remove_lun(self, target: int, number: int) -> None:
        """Serve it no more; what is held for it is aborted. Targets without LUNs stay."""
        t: ScsiTargetPtr = self.host.targets[target]
        i: uint32_t
        for i in range(t.n):
            if t.luns[i] != NULL and t.luns[i].number == number:
                atomics.store_ptr(address(t.luns[i]), NULL)
        atomics.fetch_add_u64(address(self.host.purge), 1)
        host_wake(self.host)

    def __dealloc__(self) -> None:
        i: uint32_t
        if self.host != NULL:
            for i in range(cast(uint32_t, MAX_TARGETS)):
                free(self.host.targets[i])
            free(self.host)
