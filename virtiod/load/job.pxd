# The load generator's structures.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from virtiod.bdev.channel cimport BdevChannels
from virtiod.poller.poller cimport Poller
from virtiod.core.types cimport Channel, Command, Io, OpStats, PollerCore

ctypedef LoadIo *LoadIoPtr
cdef struct LoadIo:
    Io io                  # first
    Load *load
    char *buffer
    uint64_t generation    # of the pattern written last
    uint32_t index
    uint8_t reading_back

ctypedef Load *LoadPtr
cdef struct Load:
    Channel *channel
    PollerCore *poller
    LoadIo *ios
    Command *command       # answered when the last I/O is back
    uint64_t seed
    uint64_t random        # state of the generator
    uint64_t io_size       # bytes
    uint64_t slots         # io_size pieces that the range has
    uint64_t sequence      # next slot of a sequential load
    uint64_t stride        # verify: distance of an I/O's slots, so that no two I/Os meet
    uint64_t first         # verify, sequential: this load's first slot
    uint64_t left          # I/Os still to start; UINT64_MAX for no limit
    uint64_t end_ns        # when to stop; UINT64_MAX for no limit
    uint32_t depth
    uint32_t in_flight
    uint8_t is_random
    uint8_t verify
    uint8_t reads          # per cent
    uint8_t stop
    # results
    uint64_t started_ns
    uint64_t ended_ns
    uint64_t mismatches
    int first_error        # -errno
    uint64_t epoch         # the last session whose device may still use some of the buffers; 0: none may
    OpStats stats          # of all I/Os, whatever their operation


cdef class LoadJob:
    cdef Load g
    cdef readonly Poller poller
    cdef BdevChannels channels
    cdef object memory
    cdef uint64_t address
    cdef void _make_ios(self) except *
    cdef object _run(self, int64_t duration_ns)

# ---- private: for the module itself
cdef uint64_t _random(Load *g) noexcept nogil
cdef uint64_t _pick(Load *g, LoadIo *i) noexcept nogil
cdef void _fill_pattern(Load *g, LoadIo *i) noexcept nogil
cdef bint _matches(Load *g, LoadIo *i) noexcept nogil
cdef void _start(Load *g, LoadIo *i) noexcept nogil
cdef void _submit(Load *g, LoadIo *i) noexcept nogil
cdef void _done(Io *io) noexcept nogil
cdef void _count(Load *g, LoadIo *i) noexcept nogil
cdef bint _read_back(Load *g, LoadIo *i) noexcept nogil
cdef int64_t _cmd_run(PollerCore *p, Command *c) noexcept nogil
