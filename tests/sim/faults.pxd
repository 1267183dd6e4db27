# Mistakes of the data path, put in the way of a queue that is sound.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.core.types cimport Source
from virtiod.virtqueue.layout cimport Seg, Virtq
from virtiod.virtqueue.queue cimport DeviceOps, IoQueue

# What the queues really do: the same for all of a kind.
cdef struct Sound:
    DeviceOps ops
    int (*add)(Virtq *q, uint32_t slot, Seg *segs, uint32_t n_out, uint32_t n_in) noexcept nogil
    int (*pop)(Virtq *q, uint32_t *written) noexcept nogil
    bint (*publish)(Virtq *q) noexcept nogil
    bint (*arm)(Virtq *q) noexcept nogil
    void (*flush)(Source *s) noexcept nogil

# ---- private: for the module itself
cdef bint _now_and_then() noexcept nogil
cdef bint _publish_unkicked(Virtq *q) noexcept nogil
cdef bint _arm_blindly(Virtq *q) noexcept nogil
cdef void _flush_not(Source *s) noexcept nogil
cdef int _add_backwards(Virtq *q, uint32_t slot, Seg *segs, uint32_t n_out, uint32_t n_in) noexcept nogil
cdef int _pop_another(Virtq *q, uint32_t *written) noexcept nogil
cdef int _result_good(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _result_bad(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _build_elsewhere(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _build_discard(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_stable(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _build_unforced(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
