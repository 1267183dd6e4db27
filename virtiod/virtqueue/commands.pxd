# Commands of the control plane to a request queue, ctx: the IoQueue; what they do is in ioqueue_commands.py.
from libc.stdint cimport int64_t, uint64_t

from virtiod.virtqueue.requests cimport IoQueue
from virtiod.core.types cimport Command, Io, PollerCore

cdef int64_t queue_start(PollerCore *p, Command *c) noexcept nogil
cdef int64_t queue_release(PollerCore *p, Command *c) noexcept nogil
cdef int64_t queue_stop(PollerCore *p, Command *c) noexcept nogil
cdef int64_t queue_fail(PollerCore *p, Command *c) noexcept nogil
cdef int64_t queue_drain(PollerCore *p, Command *c) noexcept nogil
cdef int64_t queue_request(PollerCore *p, Command *c) noexcept nogil

cdef void _release(IoQueue *q) noexcept nogil
cdef void _fail_line(IoQueue *q, Io *io, uint64_t before, int status) noexcept nogil
cdef void _fail_for_unit(IoQueue *q, Io *io, uint64_t before, int status) noexcept nogil
cdef void _fail_waiting(IoQueue *q, uint64_t before, int status) noexcept nogil
