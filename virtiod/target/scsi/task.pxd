# A SCSI command of the embedded target while it is carried out.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.core.types cimport iovec
from virtiod.target.ring cimport DevRing
from virtiod.target.scsi.lun cimport ScsiLun, ScsiTarget

# Its data is q.out[first..] and into[0..n_in).
ctypedef ScsiTask *ScsiTaskPtr
cdef struct ScsiTask:
    DevRing *q
    ScsiTarget *target
    ScsiLun *lun           # NULL: there is none of that number
    unsigned char *cdb
    uint32_t first
    uint32_t n_in
    iovec *into
    uint64_t out_bytes
    uint64_t in_bytes
    uint64_t moved         # bytes of data, in or out
    uint8_t response       # virtio's
    uint8_t status
    uint8_t key
    uint16_t asc
    uint8_t descriptor     # sense in descriptor format
    uint8_t deferred       # sense of an earlier command
    uint32_t sense_length  # at most so much of it is told

cdef void check(ScsiTask *t, uint8_t key, uint16_t asc) noexcept nogil
cdef bint attention(ScsiTask *t) noexcept nogil
cdef uint32_t trim(iovec *v, uint32_t n, uint64_t total) noexcept nogil
cdef void reply(ScsiTask *t, unsigned char *data, uint64_t n, uint64_t allocated) noexcept nogil
