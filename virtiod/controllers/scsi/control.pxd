# virtio-scsi's control and event queues (virtio 1.2 §5.6.6.2, §5.6.6.3).
from libc.stdint cimport uint32_t

from virtiod.virtio.scsi cimport TmfReq, TmfResp
from virtiod.virtqueue.handle cimport RequestQueue
from virtiod.virtqueue.queue cimport IoQueue


cdef class ControlQueue(RequestQueue):
    pass


cdef class EventQueue(RequestQueue):
    pass

# ---- private: for the module itself
# A slot's area on the control queue.
ctypedef TmfArea *TmfAreaPtr
cdef packed struct TmfArea:
    TmfReq request
    TmfResp answer

cdef int _build_tmf(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_tmf(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _build_event(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_event(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
