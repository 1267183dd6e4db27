# The modelled device: what it has of each queue, and what it keeps.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tests.sim.core cimport Sim
from virtiod.core.types cimport iovec
from virtiod.virtqueue.layout cimport Seg, VringAvail, VringDesc, VringUsed

cdef enum:
    MAX_RING = 64
    MAX_SEGS = 64          # of data
    MAX_CHAIN = 66         # with header and status
    MAX_QUEUES = 4
    MAX_LATE = 64
    SECTOR = 512
    NEVER = 0xffffffffffffffff

cdef enum JobState:
    FREE = 0
    DOING = 1
    DONE = 2               # to be answered

# A request that was taken from a ring.
ctypedef Job *JobPtr
cdef struct Job:
    uint8_t state
    uint8_t status         # what it will be
    uint16_t head
    uint32_t type
    uint32_t sectors
    uint32_t done          # of them
    uint32_t written       # bytes
    uint32_t n_data
    uint64_t sector
    uint64_t due
    char *status_at
    Seg data[MAX_SEGS]

cdef enum RingState:
    OFF = 0
    SET = 1
    RUNNING = 2

ctypedef Ring *RingPtr
cdef struct Ring:
    Model *device
    uint8_t state
    uint8_t event_idx
    uint8_t indirect
    uint8_t asleep         # until it is kicked
    uint32_t index
    uint16_t size
    uint16_t mask
    uint16_t last_avail
    uint16_t slept_at      # avail index when it fell asleep
    uint16_t used_idx
    uint16_t shown         # of it
    uint32_t n_jobs
    VringDesc *desc
    VringAvail *avail
    VringUsed *used
    uint16_t *used_event
    uint16_t *avail_event
    int kick_fd
    int call_fd
    Job jobs[MAX_RING]

cdef enum Lie:
    TRUTH = 0
    UNKNOWN_ID = 1
    FAR_INDEX = 2

# Ways of the model that are wrong, so that a test sees that they are found.
cdef enum Flaw:
    SOUND = 0
    LOSES_FLUSH = 1        # a flush is answered and does nothing
    LOSES_WRITE = 2        # now and then a write is answered and not done
    OLD_READ = 3           # now and then a read finds what was there before the last write
    WRONG_SECTOR = 4       # now and then a write goes one sector too far
    NO_INTERRUPT = 5       # now and then
    ANSWERS_EARLY = 6      # reads are answered before their data is there
    LATE_WRITE = 7         # a write may be done again after its answer
    DROPS = 8              # now and then a request is never answered

ctypedef Model *ModelPtr
cdef struct Model:
    Sim *sim
    uint32_t sectors
    char *current          # what a read finds
    char *stable           # what is left after a power failure
    uint8_t *dirty         # by sector: current is not stable yet
    char *before           # Flaw.OLD_READ: what a sector held before
    uint8_t lingers        # see medium.py
    uint32_t n_late
    Job late[MAX_LATE]
    uint64_t late_at       # Flaw.LATE_WRITE: when to write again, 0: nothing
    uint64_t late_sector
    char late_data[SECTOR]
    uint64_t known_from    # memory that it was told of
    uint64_t known_to
    uint8_t write_back     # it has a volatile cache
    uint8_t silent
    uint8_t lie
    uint8_t flaw
    uint8_t foreign        # it is another disk for now
    uint32_t seg_max       # segments of data in a request
    uint32_t size_max      # bytes of one
    uint32_t errors        # of 1000 requests
    uint64_t delay_ns      # of a step of a request, on average
    uint64_t requests
    char serial[20]
    Ring rings[MAX_QUEUES]

# One step of a ring; whether it did anything.
cdef int step(Ring *r) noexcept nogil
# When there is something to do: now, later, or NEVER.
cdef uint64_t due(Ring *r) noexcept nogil
# The connection is gone, and all that was asked for, unless the device goes on with it.
cdef void forget(Model *d, bint goes_on) noexcept nogil

# ---- private: for the module itself
cdef int _take(Ring *r) noexcept nogil
cdef void _parse(Ring *r, Job *j) noexcept nogil
cdef int _collect(Ring *r, Job *j, Seg *segs, unsigned char *into) noexcept nogil
cdef bint _shape(Ring *r, Job *j, Seg *segs, unsigned char *into, int n) noexcept nogil
cdef void _bad_chain(Ring *r, Job *j, uint64_t why) noexcept nogil
cdef bint _known(Model *d, uint64_t at, uint64_t n) noexcept nogil
cdef int _proceed(Ring *r) noexcept nogil
cdef void _answer(Ring *r, Job *j) noexcept nogil
cdef int _show(Ring *r) noexcept nogil
cdef void _lie(Ring *r) noexcept nogil
cdef bint _kicked(Ring *r) noexcept nogil
cdef bint _fall_asleep(Ring *r) noexcept nogil
cdef void _ask_for_kicks(Ring *r, bint wanted) noexcept nogil
