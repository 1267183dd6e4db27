# Whether a flush counts, though the unit's attentions may have been told on other queues.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.core.types cimport Message, PollerCore
from virtiod.controllers.scsi.port cimport Port, Sibling
from virtiod.virtqueue.queue cimport IoQueue

# Of a flush in the slot that the device has done: 0 if it counts; else RESULT_RETRY, with the slot's due set.
cdef int confirm(IoQueue *q, uint32_t slot) noexcept nogil

# The request in the slot was answered otherwise, with that result, which is returned.
cdef int forget(IoQueue *q, uint32_t slot, int ret) noexcept nogil

# ---- private: for the module itself
cdef bint _all_heard(Port *port, uint64_t round) noexcept nogil
cdef void _ask(Port *port, Sibling *other) noexcept nogil
cdef void _heard(Message *m, PollerCore *p) noexcept nogil
