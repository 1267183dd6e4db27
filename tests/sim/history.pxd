# What was written when, block by block, and what reads saw of it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tests.sim.core cimport Sim

cdef enum:
    BLOCK = 512
    NOT_YET = 0xffffffffffffffff
    MAX_CANDIDATES = 6
    ZERO_STAMP = 0         # of a block of zeroes

# One block of one write. Its number is the stamp that the block carries. Times count events.
ctypedef Write *WritePtr
cdef struct Write:
    uint64_t start
    uint64_t end           # when it succeeded
    # of it and of the reads that found it, in one session
    uint64_t first_end
    uint64_t last_start
    uint32_t session
    uint32_t began_in      # the session
    uint32_t block
    uint8_t failed

# A write with the reads that found it, in one session: from the first of their ends to the last of their starts.
ctypedef Zone *ZonePtr
cdef struct Zone:
    uint64_t first_end
    uint64_t last_start
    uint64_t stamp
    uint32_t block

# A block that no two operations use at a time, unless they only read: what it may hold is known.
ctypedef Exclusive *ExclusivePtr
cdef struct Exclusive:
    uint64_t candidates[MAX_CANDIDATES]
    uint32_t n             # of them; more than there is room for: anything
    uint32_t readers
    uint8_t writer
    uint8_t late           # a write that failed may still come, from a device that lives on

ctypedef Floor *FloorPtr
cdef struct Floor:
    uint64_t settled
    uint64_t acked

ctypedef History *HistoryPtr
cdef struct History:
    Sim *sim
    uint32_t blocks
    uint32_t shared        # blocks before this one may be used by any number at a time
    uint32_t session       # times that the device was lost
    uint64_t since         # event: when the session began
    uint8_t goes_back      # a loss may undo what was done, until it is done again
    uint8_t unkept         # nobody writes again what was acknowledged: it is to be told
    uint8_t lingers        # a lost device may still do what it was asked for
    uint32_t lost          # times that what was acknowledged is gone
    Write *writes
    uint64_t n             # of them; the first are those of the disk as it was
    uint64_t room
    Zone *zones
    uint64_t n_zones
    uint64_t zone_room
    uint64_t *settled      # by block: latest start of a write that took effect
    uint64_t *acked        # by block: latest start of a write that succeeded
    uint64_t *stable       # by block: the same of those before a flush
    Exclusive *exclusive   # by block, from shared on

cdef void stamp(char *at, uint64_t value) noexcept nogil
cdef uint64_t stamp_of(char *at) noexcept nogil
# A write begins; its stamp, 0 if there is no room for more.
cdef uint64_t begin(History *h, uint32_t block) noexcept nogil
cdef void end(History *h, uint64_t which, bint succeeded) noexcept nogil
# What the block surely holds by now, or something newer: for saw().
cdef Floor floor_of(History *h, uint32_t block) noexcept nogil
# A read that began at an event, and had this floor then, has found this in a block.
cdef void saw(History *h, uint32_t block, char *at, uint64_t start, Floor *floor) noexcept nogil
# The device was lost: all that is in flight may be done again.
cdef void lost(History *h) noexcept nogil
# What it holds after its death.
cdef void survived(History *h, uint32_t block, char *at) noexcept nogil
cdef bint reserve(History *h, uint32_t block, uint32_t n, bint to_write) noexcept nogil
cdef void give_back(History *h, uint32_t block, uint32_t n, bint to_write) noexcept nogil
# What was acknowledged and is not stable may be gone, and whoever is to know that does.
cdef void write_off(History *h) noexcept nogil
# The exclusive block holds this now, or may, or whatever.
cdef void only(History *h, uint32_t block, uint64_t value) noexcept nogil
cdef void maybe(History *h, uint32_t block, uint64_t value) noexcept nogil
cdef void anything(History *h, uint32_t block) noexcept nogil
cdef void failed(History *h, uint32_t block) noexcept nogil


cdef class Blocks:
    cdef History h

# ---- private: for the module itself
cdef void _touch(History *h, Write *w) noexcept nogil
cdef void _set_aside(History *h, Write *w) noexcept nogil
cdef uint64_t _surely_by(History *h, Write *w) noexcept nogil
cdef void _forget_acknowledged(History *h, uint32_t block, Write *left) noexcept nogil
