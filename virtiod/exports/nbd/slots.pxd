# Buffers and slots of NBD requests.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport NbdConn, NbdSlot

cdef bint take_buffers(NbdConn *c, NbdSlot *slot) noexcept nogil
cdef void give_back(NbdSlot *slot, bint lost) noexcept nogil
cdef void release(NbdSlot *slot) noexcept nogil
cdef void leave_queue(NbdConn *c) noexcept nogil
cdef bint stalled(NbdConn *c, uint64_t now) noexcept nogil

# ---- private: for the module itself
cdef void _wait(NbdConn *c) noexcept nogil
