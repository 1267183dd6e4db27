# virtio-blk request queues.
from libc.stdint cimport uint8_t, uint32_t

from virtiod.virtqueue.queue cimport IoQueue
from virtiod.virtqueue.handle cimport RequestQueue
from virtiod.virtio.blk cimport ID_BYTES, BlkHeader, BlkRange

# A slot's area: the header shares a cache line with the descriptors; what the device writes has a line of its own.
ctypedef BlkArea *BlkAreaPtr
cdef packed struct BlkArea:
    BlkHeader header
    unsigned char status
    unsigned char pad[7]
    BlkRange range
    unsigned char id[ID_BYTES]

# How the device counts what it wrote (used.len); IoQueue.kind points to it.
ctypedef Habits *HabitsPtr
cdef struct Habits:
    uint8_t status_only    # it says 1, for the status, whatever it wrote


cdef class BlkQueue(RequestQueue):
    cdef Habits habits

# ---- private: for the module itself
cdef int _build(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _take_id(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
