# Commands of the control plane to a request queue, ctx: the IoQueue.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from virtiod.virtqueue.queue cimport IoQueue
from virtiod.core.types cimport BdevCore, Command, Io, PollerCore

cdef int64_t start(PollerCore *p, Command *c) noexcept nogil
cdef int64_t release(PollerCore *p, Command *c) noexcept nogil
cdef int64_t stop(PollerCore *p, Command *c) noexcept nogil
cdef int64_t fail(PollerCore *p, Command *c) noexcept nogil
cdef int64_t expire(PollerCore *p, Command *c) noexcept nogil
cdef int64_t count_overdue(PollerCore *p, Command *c) noexcept nogil
cdef int64_t doubt(PollerCore *p, Command *c) noexcept nogil
cdef int64_t in_doubt(PollerCore *p, Command *c) noexcept nogil
cdef int64_t exchange_ring(PollerCore *p, Command *c) noexcept nogil
cdef int64_t unit_reset(PollerCore *p, Command *c) noexcept nogil
cdef int64_t unread(PollerCore *p, Command *c) noexcept nogil
cdef int64_t drain(PollerCore *p, Command *c) noexcept nogil
cdef int64_t repeat(PollerCore *p, Command *c) noexcept nogil
cdef int64_t request(PollerCore *p, Command *c) noexcept nogil

# Whether the device has forgotten the slot's I/O, which it was given before that time (ns).
cdef bint overdue(IoQueue *q, uint32_t slot, uint64_t before, uint64_t timeout) noexcept nogil

# ---- private: for the module itself
cdef void _note_lost(IoQueue *q) noexcept nogil
cdef void _note_unit(IoQueue *q, Io *io) noexcept nogil
cdef void _note_line(IoQueue *q, Io *io, BdevCore *b) noexcept nogil
cdef bint _is_cached(Io *io) noexcept nogil
cdef bint _writes(Io *io) noexcept nogil
cdef void _submit_again(IoQueue *q, uint32_t slot) noexcept nogil
cdef void _give_up(Io *io, int status) noexcept nogil
cdef void _end(IoQueue *q, uint32_t slot, int status) noexcept nogil
cdef int64_t _end_given_up(IoQueue *q, int status) noexcept nogil
cdef void _release(IoQueue *q) noexcept nogil
cdef void _fail_line(IoQueue *q, Io *io, uint64_t before, int status) noexcept nogil
cdef void _fail_for_unit(IoQueue *q, Io *io, uint64_t before, int status) noexcept nogil
cdef void _fail_waiting(IoQueue *q, uint64_t before, int status) noexcept nogil
