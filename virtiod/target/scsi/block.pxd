# The embedded target's block commands.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtiod.target.scsi.task cimport ScsiTask
from virtiod.core.types cimport iovec

cdef void capacity(ScsiTask *t) noexcept nogil
cdef bint is_media(uint8_t op) noexcept nogil
cdef void media(ScsiTask *t) noexcept nogil

# ---- private: for the module itself
cdef bint _in_range(ScsiTask *t, uint64_t lba, uint64_t blocks) noexcept nogil
cdef void _read(ScsiTask *t, uint64_t lba, uint64_t blocks) noexcept nogil
cdef void _write(ScsiTask *t, uint64_t lba, uint64_t blocks, bint fua) noexcept nogil
cdef void _flush_cache(ScsiTask *t, uint64_t lba, uint64_t blocks) noexcept nogil
cdef void _unmap(ScsiTask *t) noexcept nogil
cdef bint _all_zero(iovec *v, uint32_t n) noexcept nogil
cdef void _write_same(ScsiTask *t, uint64_t lba, uint64_t blocks, bint no_data) noexcept nogil
