# Replies of an NBD connection, and its end.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport Conn, Slot
from virtiod.core.types cimport Io, Source, iovec

# Io.done
cdef void done(Io *io) noexcept nogil
# Source.flush
cdef void flush(Source *s) noexcept nogil
cdef void answer(Slot *slot, int failure) noexcept nogil
cdef void die(Conn *c, unsigned int end) noexcept nogil

# ---- private: for the module itself
cdef int _gather(Conn *c, iovec *iov, uint64_t *total) noexcept nogil
cdef void _advance(Conn *c, uint64_t n) noexcept nogil
