# Buffers and slots of NBD requests; how they are shared out is in nbd_buffers.py.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport NbdConn, NbdSlot

cdef bint nbd_take_buffers(NbdConn *c, NbdSlot *slot) noexcept nogil
cdef void nbd_give_back(NbdSlot *slot, bint lost) noexcept nogil
cdef void nbd_release(NbdSlot *slot) noexcept nogil
cdef void nbd_leave_queue(NbdConn *c) noexcept nogil
cdef bint nbd_stalled(NbdConn *c, uint64_t now) noexcept nogil

cdef void _wait(NbdConn *c) noexcept nogil
