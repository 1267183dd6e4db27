# The embedded target's virtio-blk requests.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.disk cimport Disk, TargetDisk
from virtiod.target.ring cimport DeviceRing, DevRing
from virtiod.virtio.blk cimport ID_BYTES

cdef enum Fault:
    NONE = 0
    ERROR = 1              # IOERR
    USED_ID = 2            # a used id that is not in flight
    USED_INDEX = 3         # a used index far ahead
    SILENCE = 4            # takes requests, answers none
    DEATH = 5              # SIGKILL
    NO_STATUS = 6          # completes without a status byte

ctypedef BlkUnit *BlkUnitPtr
cdef struct BlkUnit:
    Disk *disk
    uint64_t fault_after   # requests served well before the fault
    uint64_t fault_every   # then: 0 or 1 all, else each so many
    uint64_t fault_times   # 0: for good
    uint64_t delay_ns      # of each completion
    uint8_t fault          # a Fault
    uint8_t late           # what SILENCE takes is held, to be done when the ring is asked to stop
    char serial[ID_BYTES]


cdef class TargetUnit:
    cdef BlkUnit unit
    cdef TargetDisk disk


cdef class BlkRing(DeviceRing):
    pass

# ---- private: for the module itself
cdef int _serve(DevRing *q, uint16_t head, uint64_t now) noexcept nogil
cdef int _execute(DevRing *q, BlkUnit *u, uint32_t type, uint64_t sector, uint32_t first, uint64_t in_bytes) noexcept nogil
cdef int _transfer(DevRing *q, Disk *d, uint32_t type, uint64_t sector, uint32_t first, uint64_t in_bytes) noexcept nogil
cdef int _range_request(DevRing *q, Disk *d, uint32_t type, uint32_t first) noexcept nogil
cdef bint _due(DevRing *q, BlkUnit *u) noexcept nogil
cdef bint _held_back(DevRing *q, BlkUnit *u, uint16_t head) noexcept nogil
cdef bint _spoiled(DevRing *q, BlkUnit *u, uint16_t head, int *result) noexcept nogil
