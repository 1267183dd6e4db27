# The answer to a virtio-scsi request of the embedded target.
from libc.stdint cimport uint32_t

from virtiod.target.ring cimport DevRing
from virtiod.target.scsi.task cimport ScsiTask
from virtiod.virtio.scsi cimport CmdResp

cdef int part(DevRing *q, uint32_t n, uint32_t *cut) noexcept nogil
cdef void write(DevRing *q, ScsiTask *t, uint32_t at, uint32_t cut) noexcept nogil

# ---- private: for the module itself
cdef void _fill(CmdResp *to, ScsiTask *t, uint32_t sense_size) noexcept nogil
