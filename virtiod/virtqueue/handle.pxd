# A request queue as the control plane has it; base of the classes of each kind of controller.
from libc.stdint cimport uint32_t, uint64_t

from virtiod.bdev.channel cimport BdevChannels
from virtiod.bdev.keeping cimport KeptFlush, KeptRecord
from virtiod.virtqueue.layout cimport Virtq
from virtiod.virtqueue.queue cimport IoQueue
from virtiod.poller.poller cimport Poller


cdef class RequestQueue:
    cdef IoQueue q
    cdef readonly int index
    cdef readonly Poller poller
    cdef object memory
    cdef object on_broken
    cdef uint64_t address
    cdef uint64_t bytes    # of the ring and what lies beside it
    cdef uint64_t zeroes_address
    cdef object spec
    cdef uint32_t area_bytes
    cdef public int call_fd
    cdef int _lay_out(self, Virtq *ring, uint64_t at) except -1
    cdef object _repeat(self, KeptRecord record)
    cdef object _unit_reset(self, BdevChannels channels)
    cdef object request(self, void *out, object keep)
