# virtio-scsi request queues.
from libc.stdint cimport int64_t, uint64_t

from virtiod.bdev.channel cimport BdevChannels
from virtiod.virtqueue.handle cimport RequestQueue
from virtiod.controllers.scsi.port cimport Call, Port
from virtiod.core.types cimport Command, PollerCore


cdef class ScsiCall:
    cdef Call call
    cdef object buffers
    cdef readonly BdevChannels channels
    cdef readonly int length


cdef class ScsiQueue(RequestQueue):
    cdef Port port
    cdef object _overdue(self, uint64_t before, uint64_t unit, bytearray found)
    cdef object _silent(self, uint64_t before, uint64_t timeout, bytearray found)
    cdef object _take(self, bytearray found)

# ---- private: for the module itself
cdef int64_t _cmd_take_reports(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_overdue(PollerCore *p, Command *c) noexcept nogil
cdef int64_t _cmd_silent(PollerCore *p, Command *c) noexcept nogil
