# An NBD connection as a poller's source, and its requests.
from libc.stdint cimport uint64_t

from virtiod.exports.nbd.state cimport Conn, Share, Slot
from virtiod.exports.nbd.request cimport Request
from virtiod.core.types cimport Source

# Source.poll, .arm, .tick
cdef int poll(Source *s, uint64_t now) noexcept nogil
cdef bint arm(Source *s) noexcept nogil
cdef void tick(Source *s, uint64_t now) noexcept nogil

# ---- private: for the module itself
cdef bint _idle(Conn *c) noexcept nogil
cdef void _drain(Conn *c, unsigned int end) noexcept nogil
cdef void _bury(Conn *c) noexcept nogil
cdef int _receive(Conn *c) noexcept nogil
cdef void _something_came(Conn *c) noexcept nogil
cdef void _nothing_came(Conn *c) noexcept nogil
cdef int _parse(Conn *c) noexcept nogil
cdef bint _begin(Conn *c, Request *r) noexcept nogil
cdef uint64_t _capacity(Conn *c) noexcept nogil
cdef void _fill_from_buffer(Conn *c) noexcept nogil
cdef void _filled(Conn *c, uint64_t n) noexcept nogil
cdef void _submit(Slot *slot) noexcept nogil
