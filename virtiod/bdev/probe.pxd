# Single I/Os and single rounds, for tests.
from libc.stdint cimport int64_t, uint64_t

from virtiod.poller.buffers cimport PollerBuffers
from virtiod.bdev.channel cimport BdevChannels, Holdings
from virtiod.poller.poller cimport Poller
from virtiod.core.types cimport Channel, Command, Io, PollerCore, iovec

cdef enum:
    MAX_SEGMENTS = 256

ctypedef ProbeIo *ProbeIoPtr
cdef struct ProbeIo:
    Io io                  # first
    Command *command
    Channel *channel
    iovec iov[MAX_SEGMENTS]


cdef class Ticket:
    cdef ProbeIo *io


cdef class Probe:
    cdef readonly Poller poller
    cdef BdevChannels channels
    cdef object memory
    cdef uint64_t address
    cdef uint64_t losses_seen
    cdef readonly object size

# ---- private: for the module itself
cdef void _done(Io *io) noexcept nogil
cdef int64_t _cmd_submit(PollerCore *p, Command *c) noexcept nogil
