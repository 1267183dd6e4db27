# Who uses a bdev, on one poller.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tests.sim.core cimport Sim
from tests.sim.history cimport Floor, History
from virtiod.core.types cimport Channel, Io, Message, PollerCore, iovec
from virtiod.poller.buffers cimport BufferPool

cdef enum:
    MAX_BLOCKS = 16        # of an I/O
    MAX_IOV = 16
    POISON = 0x5a

ctypedef UserIo *UserIoPtr
cdef struct UserIo:
    Io io                  # first
    User *user
    uint8_t busy
    uint8_t exclusive
    uint8_t begun
    uint8_t forced         # a flush, or to be flushed
    uint64_t start         # event
    uint64_t number
    uint32_t block
    uint32_t blocks
    uint64_t stamps[MAX_BLOCKS]
    Floor floors[MAX_BLOCKS]
    uint64_t *before       # FLUSH: acked of each block when it began
    BufferPool *pool       # that its buffers are of
    int n_buffers
    iovec buffers[MAX_IOV]
    iovec iov[MAX_IOV]

ctypedef User *UserPtr
cdef struct User:
    Sim *sim
    History *history
    PollerCore *poller
    Channel *channel
    BufferPool *pool
    UserIo *ios
    uint32_t depth
    uint32_t in_flight
    uint64_t left          # I/Os to begin
    uint64_t next          # when to begin one
    uint64_t think_ns
    uint64_t retry_ns      # for want of buffers or blocks
    uint32_t hurry         # of 1000 completions that begin the next one at once
    uint32_t share[5]      # of 1000, by Op: how often
    uint32_t fua           # of 1000 writes
    uint32_t hands_over    # of 1000 writes whose buffers may stay with the bdev
    uint64_t losses        # of acknowledged writes, that it was told of: the bdev's count
    uint32_t heard         # the history's
    uint32_t sweep         # next block of a read of all, if sweeping
    uint8_t sweeping
    uint8_t stopped
    uint64_t done
    uint64_t failed
    uint64_t failures[5]   # by Op

# When it begins an I/O; NOT_YET: not before one has ended. Begin one.
cdef uint64_t begins_at(User *u) noexcept nogil
cdef int start(User *u) noexcept nogil

# ---- private: for the module itself
cdef UserIo *_free_one(User *u) noexcept nogil
cdef uint64_t _longer(uint64_t ns) noexcept nogil
cdef bint _choose(User *u, UserIo *i) noexcept nogil
cdef uint8_t _operation(User *u) noexcept nogil
cdef bint _place(User *u, UserIo *i) noexcept nogil
cdef bint _get_buffers(User *u, UserIo *i) noexcept nogil
cdef void _leave_whole(UserIo *i) noexcept nogil
cdef void _cut(User *u, UserIo *i) noexcept nogil
cdef void _begin(Message *m, PollerCore *p) noexcept nogil
cdef bint _begin_writes(User *u, UserIo *i) noexcept nogil
cdef char *_data(UserIo *i, uint32_t block, char *room) noexcept nogil
cdef void _fill(UserIo *i, uint32_t block, char *data) noexcept nogil
cdef void _done(Io *io) noexcept nogil
cdef void _judge(User *u, UserIo *i) noexcept nogil
cdef void _hold(History *h, UserIo *i, uint32_t block, uint64_t value, bint surely) noexcept nogil
cdef void _wrote(User *u, UserIo *i) noexcept nogil
cdef void _flushed(User *u, UserIo *i) noexcept nogil
cdef void _release(User *u, UserIo *i) noexcept nogil
