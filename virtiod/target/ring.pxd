# The device side of a split ring, for the embedded target's devices.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.poller.poller cimport Poller
from virtiod.core.types cimport Command, PollerCore, Source, iovec
from virtiod.virtqueue.layout cimport VringAvail, VringDesc, VringUsed

cdef enum:
    MAX_REGIONS = 64
    MAX_CHAIN = 1026
    BATCH = 64             # requests taken in one round

cdef enum:
    HELD_FOR_EVER = 0xffffffffffffffff

# Front-end memory as the back-end mapped it.
ctypedef MemRegion *MemRegionPtr
cdef struct MemRegion:
    uint64_t guest         # address in descriptors
    uint64_t size
    char *local

ctypedef MemTable *MemTablePtr
cdef struct MemTable:
    uint32_t n
    MemRegion regions[MAX_REGIONS]

# A request that is served and not yet completed.
ctypedef Held *HeldPtr
cdef struct Held:
    uint64_t due_ns        # when it completes by itself, HELD_FOR_EVER: it does not
    uint64_t tag           # the device's: what it is
    uint64_t unit          # the device's: for whom it is
    uint32_t written
    uint16_t head

# What a device does with the chain at head: 0, 1 to serve no more in this round, or negative when the front-end broke
# the ring. It calls push() or hold() at most once.
cdef struct DevRing
ctypedef DevRing *DevRingPtr
ctypedef int (*serve_fn)(DevRing *q, uint16_t head, uint64_t now) noexcept nogil
cdef struct DevRing:
    Source source
    serve_fn serve
    void *device           # what serve works on
    VringDesc *desc
    VringAvail *avail
    uint16_t *used_event   # behind the available ring: the driver's
    VringUsed *used
    uint16_t *avail_event  # behind the used ring: ours
    uint16_t size
    uint16_t mask
    uint16_t last_avail    # next entry to take
    uint16_t taken         # head of what take() took
    uint16_t used_idx      # next entry to fill
    uint16_t published
    uint8_t event_idx
    uint8_t broken
    uint8_t late           # it was asked to stop, and only finishes what it holds
    int call_fd
    int err_fd             # told once when the ring is broken
    MemTable *table
    Held *held             # size entries, oldest first
    uint32_t n_held
    uint64_t next_due_ns   # of those held
    uint64_t requests
    uint64_t interrupts
    uint32_t n_out
    uint32_t n_in
    iovec out[MAX_CHAIN]
    iovec into[MAX_CHAIN]
    VringDesc scratch[MAX_CHAIN]

# A device's serve function calls these.
cdef int collect(DevRing *q, uint16_t head) noexcept nogil
cdef uint64_t copy_out(DevRing *q, void *to, uint64_t n, uint32_t *index) noexcept nogil
cdef void push(DevRing *q, uint32_t id, uint32_t written) noexcept nogil
cdef void hold(DevRing *q, Held *h) noexcept nogil
cdef bint take(DevRing *q) noexcept nogil
cdef bint put(DevRing *q, unsigned char *data, uint32_t n) noexcept nogil
cdef void give_up(DevRing *q) noexcept nogil

# What a Source of a ring needs; devices with more to do wrap poll() and arm().
cdef int poll(Source *s, uint64_t now) noexcept nogil
cdef bint arm(Source *s) noexcept nogil


cdef class TargetMemory:
    cdef MemTable table


cdef class DeviceRing:
    cdef DevRing *q
    cdef readonly Poller poller
    cdef object keep
    cdef object _command(self, bint start)
    cdef object _be_late(self, int64_t within_ns)

# ---- private: for the module itself
cdef char *_translate(MemTable *t, uint64_t addr, uint64_t length) noexcept nogil
cdef int _collect_table(DevRing *q, VringDesc *table, uint32_t n, uint32_t at) noexcept nogil
cdef int _add_segment(DevRing *q, VringDesc *d) noexcept nogil
cdef int _poll_held(DevRing *q, uint64_t now) noexcept nogil
cdef void _flush(Source *s) noexcept nogil
cdef void _disarm(Source *s) noexcept nogil
cdef int64_t _cmd_start(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_stop(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_be_late(PollerCore *p, Command *c) noexcept nogil
cdef int _finish_late(DevRing *q, uint64_t now) noexcept nogil
