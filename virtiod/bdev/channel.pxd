# What submitters (exports, load generator) and what serves a bdev (a kind of controller, the null device) call.
from libc.stdint cimport uint64_t

from virtiod.bdev.kept cimport Keep
from virtiod.poller.poller cimport Poller
from virtiod.core.types cimport (
    BdevCore,
    Channel,
    Holding,
    Io,
    Message,
    OpStats,
    PollerCore,
    channel_submit_fn,
    message_fn,
)

# Called on the thread of the poller that owns the channel.
cdef void submit(Channel *ch, Io *io) noexcept nogil

# Called by what serves the bdev, on any poller (here): the I/O has ended with 0 or -errno.
cdef void finish(Io *io, int status, PollerCore *here) noexcept nogil
# Called by what serves the bdev: has run(io, owner) called on the poller that owns the queue.
cdef void forward(Io *io, message_fn run, PollerCore *owner) noexcept nogil
# A flush of virtiod's own. None is in flight.
cdef void start_flush(Keep *k) noexcept nogil


cdef class Holdings:
    cdef Holding *of_poller    # by the number of the poller
    cdef int count


cdef class BdevChannels:
    cdef BdevCore core
    cdef readonly list pollers
    cdef Channel **channels    # one for each poller
    cdef OpStats **stats       # theirs: count of them for each Op
    cdef int count
    cdef public object served_by  # what must live as long as the channels
    cdef object holdings          # so must this
    cdef uint64_t busy_shown   # the largest busy_ns that bdev_counters() told: it never goes back
    cdef uint64_t in_flight_of(self, int first, int n) noexcept nogil
    cdef uint64_t oldest_of(self, int first, int n) noexcept nogil
    cdef Channel *channel(self, Poller poller) except NULL
    cdef void connect(self, int index, channel_submit_fn submit, void *device) noexcept

# ---- private: for the module itself
cdef int _refusal(BdevCore *b, Io *io) noexcept nogil
cdef void _flush_by_itself(Channel *ch) noexcept nogil
cdef void _flushed(Io *io) noexcept nogil
cdef void _complete(Io *io) noexcept nogil
cdef void _complete_message(Message *m, PollerCore *p) noexcept nogil
