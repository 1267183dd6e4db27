# Acknowledged writes that may be in a device's volatile cache only: what a channel keeps of them, and for how long.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtiod.core.types cimport Channel, Command, Io, Message, iovec
from virtiod.poller.buffers cimport BufferPool

cdef enum:
    SEGMENTS = 4           # of a record; a longer write has several
    RECORDS = 768          # of a channel

# What a kept write, or a part of one, needs to be written again. op, flags, offset, length and iov of io say what; the
# buffers are of the channel's poller's pool. Discards and zeroes have none.
ctypedef KeptWrite *KeptWritePtr
cdef struct KeptWrite:
    Io io                  # first
    uint64_t number        # in the order of acknowledgement, over all channels of the bdev
    KeptWrite *next
    iovec iov[SEGMENTS]
    uint8_t lost           # the device refused it when it was written again

# Of a channel; its poller's. Counters may be read by anyone.
ctypedef Keep *KeepPtr
ctypedef Keep **KeepArray
cdef struct Keep:
    Message news           # first: from another poller's flush
    Channel *channel
    BufferPool *pool
    KeptWrite *records
    uint32_t n_fresh       # of them that were never used
    KeptWrite *free
    KeptWrite *oldest      # kept, by number
    KeptWrite *newest
    Io *waiting            # writes for which there is no room, linked by msg.next
    Io *waiting_tail
    uint32_t n_taken       # records kept or reserved
    uint32_t n_kept
    uint32_t n_small       # buffers of both kinds, kept or reserved
    uint32_t n_large
    uint32_t kept_small    # of these, those that are kept
    uint32_t kept_large
    uint32_t max_small
    uint32_t max_large
    uint32_t told          # news is on its way
    uint8_t held           # the control plane works on the list: nothing leaves it
    uint8_t closed         # keeps nothing more
    uint8_t flushing       # a flush of virtiod's own is in flight
    uint8_t flush_failed   # the last one
    Channel own            # that flush's: what users' statistics do not count
    Io flush
    Command *settle        # to be answered when it is back
    uint64_t kept_bytes

# What a write takes.
ctypedef Need *NeedPtr
cdef struct Need:
    uint32_t records
    uint32_t small         # buffers
    uint32_t large

# Have it keep writes, in buffers of this pool.
cdef void give_room(Keep *k, BufferPool *pool) noexcept nogil

# Users' buffers that are of this pool may be handed over.
cdef bint takes_over(Channel *ch, BufferPool *pool) noexcept nogil

# The channel's poller. Each is for channels that have a Keep.

# A user's I/O that passed the channel's checks: false if it waits for room.
cdef bint admit(Channel *ch, Io *io) noexcept nogil
# It has ended; its status becomes -EIO where its user is to hear of a loss.
cdef void ended(Channel *ch, Io *io) noexcept nogil
# A flush succeeded before which all below mark was acknowledged.
cdef void stabilize(Channel *ch, uint64_t mark) noexcept nogil
# The device has a volatile cache and refused a flush: nothing will be stable, so none of the bdev's channels keeps more.
cdef void keep_no_more(Keep *k) noexcept nogil
# Gives back what is stable, and admits what waits for room.
cdef void release(Keep *k) noexcept nogil
# virtiod should flush by itself.
cdef bint wants_flush(Keep *k) noexcept nogil
# End what waits for room and was submitted before that time.
cdef void fail_waiting(Keep *k, uint64_t before, int status) noexcept nogil
# Give everything back, whether it is stable or not; returns how much of it was not.
cdef uint32_t give_up(Keep *k) noexcept nogil

# Whether io, a write that was done, takes a flush behind it.
cdef bint flush_follows(Io *io) noexcept nogil

# ---- private: for the module itself
cdef void _wait(Keep *k, Io *io) noexcept nogil
cdef bint _reserve(Keep *k, Io *io) noexcept nogil
cdef void _estimate(Keep *k, Io *io, Need *need) noexcept nogil
cdef bint _take_room(Keep *k, Io *io, uint32_t records) noexcept nogil
cdef void _count(Keep *k, iovec *iov, uint32_t n, int sign) noexcept nogil
cdef KeptWrite *_take(Keep *k) noexcept nogil
cdef void _keep(Keep *k, Io *io) noexcept nogil
cdef void _count_kept(Keep *k, KeptWrite *w, int sign) noexcept nogil
cdef void _fill(Keep *k, Io *io, KeptWrite *w) noexcept nogil
cdef void _tell_others(Keep *k) noexcept nogil
cdef void _forget(Keep *k, KeptWrite *w) noexcept nogil
cdef void _give_back(Keep *k, KeptWrite *w) noexcept nogil
cdef void _give_back_all(Keep *k, Io *io) noexcept nogil
