# The embedded target's virtio-scsi request queues.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.scsi.host cimport ScsiHost, ScsiLink
from virtiod.target.ring cimport DeviceRing, DevRing, Held
from virtiod.core.types cimport Source, iovec


cdef class ScsiRing(DeviceRing):
    cdef ScsiLink *link

# ---- private: for the module itself
cdef uint64_t _bytes(iovec *v, uint32_t n) noexcept nogil
cdef int _serve(DevRing *q, uint16_t head, uint64_t now) noexcept nogil
cdef bint _concerns(ScsiHost *host, Held *h) noexcept nogil
cdef void _end_held(DevRing *q, Held *h, uint8_t why) noexcept nogil
cdef int _end_concerned(DevRing *q, ScsiLink *link) noexcept nogil
cdef int _end_removed(DevRing *q, ScsiLink *link) noexcept nogil
cdef int _poll(Source *s, uint64_t now) noexcept nogil
cdef bint _arm(Source *s) noexcept nogil
