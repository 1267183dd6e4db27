# Buffers and slots of NBD requests.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport Conn, Slot

cdef bint take_buffers(Conn *c, Slot *slot) noexcept nogil
cdef void give_back(Slot *slot) noexcept nogil
cdef void hand_over(Slot *slot) noexcept nogil
cdef void release(Slot *slot) noexcept nogil
cdef void leave_queue(Conn *c) noexcept nogil
cdef bint stalled(Conn *c, uint64_t now) noexcept nogil

# ---- private: for the module itself
cdef void _wait(Conn *c) noexcept nogil
