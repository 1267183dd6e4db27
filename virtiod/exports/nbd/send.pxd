# Replies of an NBD connection, and its end; how they are sent is in nbd_send.py.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport NbdConn, NbdSlot
from virtiod.core.types cimport Io, Source, iovec

# Io.done
cdef void nbd_done(Io *io) noexcept nogil
# Source.flush
cdef void nbd_flush(Source *s) noexcept nogil
cdef void nbd_answer(NbdSlot *slot, int failure) noexcept nogil
cdef void nbd_die(NbdConn *c, unsigned int end) noexcept nogil

cdef int _gather(NbdConn *c, iovec *iov, uint64_t *total) noexcept nogil
cdef void _advance(NbdConn *c, uint64_t n) noexcept nogil
