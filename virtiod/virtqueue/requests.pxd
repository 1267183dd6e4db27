# What becomes of the I/O and the control commands of a request queue.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.core.types cimport Channel, Command, Io, Message, PollerCore, Source
from virtiod.virtqueue.queue cimport IoQueue

# Channel.submit
cdef void submit_local(Channel *ch, Io *io) noexcept nogil
cdef void submit_remote(Channel *ch, Io *io) noexcept nogil
# Source.poll
cdef int poll(Source *s, uint64_t now) noexcept nogil
cdef void submit(IoQueue *q, Io *io) noexcept nogil
cdef int command(IoQueue *q, Command *c) noexcept nogil
cdef int repeat(IoQueue *q, Command *c, Io *io) noexcept nogil
cdef void take_back(IoQueue *q, uint32_t slot) noexcept nogil
cdef void resubmit(IoQueue *q, uint32_t slot) noexcept nogil
# Have an I/O begin again that has Io.again and no request in flight: in its place in a line, else before all that waits.
cdef void begin_again(IoQueue *q, Io *io) noexcept nogil
cdef void complete(IoQueue *q, uint32_t slot, int status) noexcept nogil
cdef void serve_waiting(IoQueue *q) noexcept nogil
cdef bint drained(IoQueue *q) noexcept nogil
cdef void check_drained(IoQueue *q) noexcept nogil

# ---- private: for the module itself
cdef uint64_t _piece_limit(Io *io) noexcept nogil
cdef int _build(IoQueue *q, uint32_t slot, uint64_t limit) noexcept nogil
cdef int _put(IoQueue *q, uint32_t slot, uint64_t limit) noexcept nogil
cdef bint _hand_piece(IoQueue *q, Io *io) noexcept nogil
cdef bint _advance(IoQueue *q, Io *io) noexcept nogil
cdef void _finish(IoQueue *q, Io *io) noexcept nogil
cdef uint32_t _take_slot(IoQueue *q) noexcept nogil
cdef void _free_slot(IoQueue *q, uint32_t slot) noexcept nogil
cdef void _wait(IoQueue *q, Io *io) noexcept nogil
cdef void _postpone(IoQueue *q, uint32_t slot) noexcept nogil
cdef int _retry(IoQueue *q, uint64_t now) noexcept nogil
cdef void _retry_from_start(IoQueue *q, uint32_t slot) noexcept nogil
cdef void _arrive(Message *m, PollerCore *p) noexcept nogil
