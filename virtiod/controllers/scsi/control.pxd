# virtio-scsi's control and event queues (virtio 1.2 §5.6.6.2, §5.6.6.3).
from libc.stdint cimport uint32_t, uint64_t

from virtiod.virtqueue.requests cimport IoQueue
from virtiod.virtqueue.handle cimport RequestQueue

cdef enum:
    T_TMF = 0              # VIRTIO_SCSI_T_TMF
    TMF_BYTES = 24         # of the request
    EVENT_BYTES = 16
    NO_ANSWER = 0xff

# struct virtio_scsi_ctrl_tmf: the last byte is for the device to write.
ctypedef TmfArea *TmfAreaPtr
cdef packed struct TmfArea:
    uint32_t type
    uint32_t subtype
    uint64_t lun
    uint64_t id
    unsigned char response

# What a task management command asks for. Command.out.
ctypedef Tmf *TmfPtr
cdef struct Tmf:
    uint32_t subtype
    uint64_t lun
    uint64_t id

cdef int _build_tmf(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_tmf(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _build_event(IoQueue *q, uint32_t slot, uint32_t n) noexcept nogil
cdef int _result_event(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil


cdef class ControlQueue(RequestQueue):
    pass


cdef class EventQueue(RequestQueue):
    pass
