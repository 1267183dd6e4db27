# virtio-scsi's control and event queues (virtio 1.2 §5.6.6.2, §5.6.6.3).
from libc.stdint cimport uint32_t, uint64_t

from virtiod.virtqueue.requests cimport IoQueue
from virtiod.virtqueue.handle cimport RequestQueue

# What a task management command asks for. Command.out.
ctypedef Tmf *TmfPtr
cdef struct Tmf:
    uint32_t subtype
    uint64_t lun
    uint64_t id


cdef class ControlQueue(RequestQueue):
    pass


cdef class EventQueue(RequestQueue):
    pass

# ---- private: for the module itself
cdef int _build_tmf(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_tmf(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _build_event(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_event(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
