# Replies of an NBD connection, and its end.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport NbdConn, NbdSlot
from virtiod.core.types cimport Io, Source, iovec

# Io.done
cdef void done(Io *io) noexcept nogil
# Source.flush
cdef void flush(Source *s) noexcept nogil
cdef void answer(NbdSlot *slot, int failure) noexcept nogil
cdef void die(NbdConn *c, unsigned int end) noexcept nogil

# ---- private: for the module itself
cdef int _gather(NbdConn *c, iovec *iov, uint64_t *total) noexcept nogil
cdef void _advance(NbdConn *c, uint64_t n) noexcept nogil
