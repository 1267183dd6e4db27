# The device side of a split ring, and the disk behind it, for the embedded target; how it works is in devq.py.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.dataplane.poller cimport Poller
from virtiod.dataplane.structs cimport Command, PollerCore, Source, iovec
from virtiod.dataplane.vring cimport VringDesc, VringUsedElem

cdef enum:
    MAX_REGIONS = 64
    MAX_SEGMENTS = 1026

cdef enum:
    DISK_NULL = 0
    DISK_MEMORY = 1
    DISK_FILE = 2

cdef enum:
    FAULT_NONE = 0
    FAULT_ERROR = 1        # IOERR
    FAULT_USED_ID = 2      # a used id that is not in flight
    FAULT_USED_INDEX = 3   # a used index far ahead
    FAULT_SILENCE = 4      # takes requests, answers none
    FAULT_DEATH = 5        # SIGKILL
    FAULT_NO_STATUS = 6    # completes without a status byte

# Front-end memory as the back-end mapped it.
ctypedef MemRegion *MemRegionPtr
cdef struct MemRegion:
    uint64_t guest         # address in descriptors
    uint64_t size
    char *local

ctypedef MemTable *MemTablePtr
cdef struct MemTable:
    uint32_t n
    MemRegion regions[64]

ctypedef Disk *DiskPtr
cdef struct Disk:
    uint64_t size          # bytes
    char *memory
    int fd
    uint8_t kind
    uint8_t read_only
    uint8_t fault
    uint64_t fault_after   # requests served well before the fault
    uint64_t fault_every   # then: 0 for good, else each so many
    uint64_t delay_ns      # of each completion
    char serial[20]

ctypedef Delayed *DelayedPtr
cdef struct Delayed:
    uint64_t due_ns
    uint32_t written
    uint16_t head

ctypedef DevQueue *DevQueuePtr
cdef struct DevQueue:
    Source source
    VringDesc *desc
    uint16_t *avail
    uint16_t *used
    VringUsedElem *used_ring
    uint16_t *avail_event
    uint16_t size
    uint16_t mask
    uint16_t last_avail    # next entry to take
    uint16_t used_idx      # next entry to fill
    uint16_t published
    uint16_t signalled     # used index at the last interrupt
    uint8_t event_idx
    uint8_t broken
    int call_fd
    int err_fd             # told once when the ring is broken
    MemTable *table
    Disk *disk
    Delayed *delayed       # size entries, a ring
    uint32_t delayed_head
    uint32_t delayed_n
    uint64_t requests
    uint64_t interrupts
    uint32_t n_out
    uint32_t n_in
    iovec out[1026]
    iovec into[1026]
    VringDesc scratch[1026]

cdef char *_translate(MemTable *t, uint64_t addr, uint64_t length) noexcept nogil
cdef int _collect(DevQueue *q, uint16_t head) noexcept nogil
cdef int _collect_table(DevQueue *q, VringDesc *table, uint32_t n, uint32_t at) noexcept nogil
cdef int _add_segment(DevQueue *q, VringDesc *d) noexcept nogil
cdef uint64_t _copy_out(DevQueue *q, void *to, uint64_t n, uint32_t *index) noexcept nogil
cdef int _serve(DevQueue *q, uint16_t head, uint64_t now) noexcept nogil
cdef int _transfer(DevQueue *q, uint32_t type, uint64_t sector, uint32_t first, uint64_t in_bytes) noexcept nogil
cdef int _range_request(DevQueue *q, uint32_t type, uint32_t first) noexcept nogil
cdef int _zero(Disk *d, uint64_t offset, uint64_t length) noexcept nogil
cdef bint _fault(DevQueue *q) noexcept nogil
cdef void _break(DevQueue *q) noexcept nogil
cdef void _push_used(DevQueue *q, uint32_t id, uint32_t written) noexcept nogil
cdef int _poll_delayed(DevQueue *q, uint64_t now) noexcept nogil
cdef int _poll(Source *s, uint64_t now) noexcept nogil
cdef void _flush(Source *s) noexcept nogil
cdef bint _arm(Source *s) noexcept nogil
cdef void _disarm(Source *s) noexcept nogil
cdef int64_t _cmd_start(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_stop(PollerCore *p, Command *c) noexcept nogil


cdef class TargetMemory:
    cdef MemTable table


cdef class TargetDisk:
    cdef Disk disk
    cdef object keep


cdef class TargetQueue:
    cdef DevQueue *q
    cdef readonly Poller poller
    cdef object keep
    cdef object _command(self, bint start)
