# The split ring, driver side.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from virtiod.virtqueue.layout cimport Seg, Virtq, VringDesc

cdef enum:
    SMALL_TABLE = 3        # descriptors in front of each slot's area
    SMALL_TABLE_BYTES = 48

cdef uint64_t footprint(uint16_t size, uint32_t area_bytes, uint32_t max_chain) noexcept nogil
cdef int init(Virtq *q, void *memory, uint16_t size, uint32_t area_bytes, uint32_t max_chain,
              bint indirect, bint event_idx) noexcept nogil

# ---- private: for the module itself
cdef uint32_t _stride(uint32_t area_bytes) noexcept nogil
cdef uint64_t _used_offset(uint64_t size) noexcept nogil
cdef uint64_t _areas_offset(uint64_t size) noexcept nogil
cdef void _fill(VringDesc *table, Seg *segs, uint32_t n_out, uint32_t n) noexcept nogil
cdef int _add(Virtq *q, uint32_t slot, Seg *segs, uint32_t n_out, uint32_t n_in) noexcept nogil
cdef int _add_direct(Virtq *q, Seg *segs, uint32_t n_out, uint32_t n) noexcept nogil
cdef int _pop(Virtq *q, uint32_t *written) noexcept nogil
cdef void _free_chain(Virtq *q, uint16_t head) noexcept nogil
cdef bint _publish(Virtq *q) noexcept nogil
cdef bint _arm(Virtq *q) noexcept nogil
cdef void _disarm(Virtq *q) noexcept nogil
cdef void _reset(Virtq *q) noexcept nogil
cdef void _destroy(Virtq *q) noexcept nogil
