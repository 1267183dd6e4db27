# The embedded target's virtio-scsi request queues.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.target.scsi.host cimport ScsiHost, ScsiLink
from virtiod.target.scsi.lun cimport LunFault
from virtiod.target.scsi.task cimport ScsiTask
from virtiod.target.ring cimport DeviceRing, DevRing, Held
from virtiod.core.types cimport Source, iovec


cdef class ScsiRing(DeviceRing):
    cdef ScsiLink *link

# ---- private: for the module itself
cdef int _split(DevRing *q, uint32_t n, uint32_t *cut) noexcept nogil
cdef uint64_t _bytes(iovec *v, uint32_t n) noexcept nogil
cdef uint32_t _fill_sense(unsigned char *sense, ScsiTask *t) noexcept nogil
cdef void _fill_response(unsigned char *p, ScsiTask *t, uint32_t sense_size) noexcept nogil
cdef void _answer(DevRing *q, ScsiTask *t, uint32_t at, uint32_t cut) noexcept nogil
cdef bint _hit(LunFault *f, uint8_t opcode) noexcept nogil
cdef bint _spoiled(ScsiTask *t, Held *h) noexcept nogil
cdef int _serve(DevRing *q, uint16_t head, uint64_t now) noexcept nogil
cdef bint _concerns(ScsiHost *host, Held *h) noexcept nogil
cdef void _end_held(DevRing *q, Held *h, uint8_t response) noexcept nogil
cdef int _end_concerned(DevRing *q, ScsiLink *link) noexcept nogil
cdef int _end_removed(DevRing *q, ScsiLink *link) noexcept nogil
cdef int _poll(Source *s, uint64_t now) noexcept nogil
cdef bint _arm(Source *s) noexcept nogil
