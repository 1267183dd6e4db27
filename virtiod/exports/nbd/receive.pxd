# An NBD connection as a source, and its requests.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport NbdConn, NbdShare, NbdSlot
from virtiod.exports.nbd.request cimport NbdRequest
from virtiod.core.types cimport Source

# Source.poll, .arm, .tick
cdef int poll(Source *s, uint64_t now) noexcept nogil
cdef bint arm(Source *s) noexcept nogil
cdef void tick(Source *s, uint64_t now) noexcept nogil

# ---- private: for the module itself
cdef bint _idle(NbdConn *c) noexcept nogil
cdef void _drain(NbdConn *c, unsigned int end) noexcept nogil
cdef void _bury(NbdConn *c) noexcept nogil
cdef int _receive(NbdConn *c) noexcept nogil
cdef void _something_came(NbdConn *c) noexcept nogil
cdef void _nothing_came(NbdConn *c) noexcept nogil
cdef int _parse(NbdConn *c) noexcept nogil
cdef bint _begin(NbdConn *c, NbdRequest *r) noexcept nogil
cdef uint64_t _capacity(NbdShare *share) noexcept nogil
cdef void _fill_from_buffer(NbdConn *c) noexcept nogil
cdef void _filled(NbdConn *c, uint64_t n) noexcept nogil
cdef void _submit(NbdSlot *slot) noexcept nogil
