# What a device's answer means.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.controllers.scsi.port cimport Call
from virtiod.virtqueue.queue cimport IoQueue, Slot
from virtiod.scsi.sense cimport SenseData
from virtiod.virtio.scsi cimport CmdResp

# DeviceOps.result
cdef int judge(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
# Has the request sent in wait_ns (retried, but it does not count as a try), unless its I/O is too old for that: then
# returns `instead`.
cdef int later(IoQueue *q, uint32_t slot, uint64_t wait_ns, int instead) noexcept nogil

# ---- private: for the module itself
cdef int _result_call(IoQueue *q, uint32_t slot) noexcept nogil
cdef void _hear(Call *call) noexcept nogil
cdef int _verdict(IoQueue *q, uint32_t slot, uint32_t written) noexcept nogil
cdef int _held(IoQueue *q, uint32_t slot) noexcept nogil
cdef int _attention(IoQueue *q, uint32_t slot, uint16_t asc) noexcept nogil
cdef int _done(IoQueue *q, uint32_t slot, CmdResp *resp, uint32_t written) noexcept nogil
cdef int _by_check(IoQueue *q, uint32_t slot, CmdResp *resp, uint32_t written) noexcept nogil
cdef int _by_response(IoQueue *q, uint32_t slot, unsigned int response) noexcept nogil
cdef int _by_status(IoQueue *q, uint32_t slot, unsigned int status) noexcept nogil
cdef int _deferred(IoQueue *q, uint32_t slot, SenseData *found) noexcept nogil
cdef int _by_sense(IoQueue *q, uint32_t slot, SenseData *found) noexcept nogil
cdef int _no_flush(IoQueue *q, uint32_t slot, uint32_t cause) noexcept nogil
cdef int _gone(Slot *s) noexcept nogil
cdef int _refused(Slot *s, uint8_t asc) noexcept nogil
cdef int _again(IoQueue *q, uint32_t slot, uint64_t wait_ns, int instead) noexcept nogil
cdef void _report(IoQueue *q, Slot *s, uint32_t cause) noexcept nogil
