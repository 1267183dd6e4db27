# The C structures that the compiled modules share: what a poller runs (Source, Message) and what it serves
# (Io, Channel, BdevCore). Each structure has one owner, named here; nobody else writes it.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

ctypedef iovec *IovPtr
ctypedef char *CharPtr
ctypedef char **CharArray
ctypedef unsigned char *BytePtr
ctypedef void *VoidPtr
ctypedef void **VoidArray
ctypedef uint64_t *U64Ptr

# Pointer types have names of their own: annotations can't say a pointer.
cdef struct Message
cdef struct Mailbox
cdef struct Command
cdef struct Source
cdef struct PollerCore
cdef struct Io
cdef struct OpStats
cdef struct Channel
cdef struct BdevCore
cdef struct UnitShare
cdef struct Holding
ctypedef Message *MessagePtr
ctypedef Mailbox *MailboxPtr
ctypedef Command *CommandPtr
ctypedef Source *SourcePtr
ctypedef PollerCore *PollerPtr
ctypedef Io *IoPtr
ctypedef OpStats *OpStatsPtr
ctypedef OpStats **OpStatsArray
ctypedef Channel *ChannelPtr
ctypedef Channel **ChannelArray
ctypedef BdevCore *BdevCorePtr
ctypedef UnitShare *UnitSharePtr
ctypedef Holding *HoldingPtr

# ---- poller -------------------------------------------------------------------------------------

# Something that is handed to a poller by another thread: pushed on its inbox, run between two rounds.
# Owned by the sender until run() is called, by the poller from then on.
ctypedef void (*message_fn)(Message *m, PollerCore *p) noexcept nogil
cdef struct Message:
    Message *next
    message_fn run

# Where the control plane gets its messages: a lock-free stack, newest first, and the eventfd that tells of it.
cdef struct Mailbox:
    MessagePtr head
    int fd

# A command to a poller. fn runs on the poller between two rounds; its result completes a future of the control
# plane, at once or, if it is COMMAND_LATER, when rounds.answer() is called.
ctypedef int64_t (*command_fn)(PollerCore *p, Command *c) noexcept nogil
cdef enum:
    COMMAND_LATER = -1000000
cdef struct Command:
    Message msg
    PollerCore *poller
    command_fn fn
    void *ctx
    void *out              # where fn leaves more than result; lives until the command is answered
    int64_t arg
    int64_t arg2
    int64_t result

# Something that a poller polls. Lives inside its owner's structure; the poller holds a pointer to it from
# rounds.add_source() to rounds.remove_source(). All functions are called by the poller's thread only.
ctypedef Source **SourceArray
cdef enum ReadyFlag:
    IN = 1             # readable, or the peer has ended its half
    OUT = 2            # writable
    GONE = 4           # hung up, or an error: nothing can be sent any more
ctypedef int (*source_poll_fn)(Source *s, uint64_t now) noexcept nogil
ctypedef void (*source_fn)(Source *s) noexcept nogil
ctypedef bint (*source_arm_fn)(Source *s) noexcept nogil
ctypedef void (*source_tick_fn)(Source *s, uint64_t now) noexcept nogil
cdef struct Source:
    source_poll_fn poll    # once a round: handles what is there, returns how many events it handled
    source_fn flush        # end of a round, only if dirty: publishes and kicks, or sends
    source_arm_fn arm      # before sleeping: asks for a wake-up on fd; true if there is work already. May be NULL
    source_fn disarm       # after sleeping. May be NULL
    source_tick_fn tick    # about every 10 ms while awake, each second asleep. May be NULL
    PollerCore *poller
    uint64_t runs          # times polled
    uint64_t busy          # times that poll returned > 0
    uint64_t wakeups       # times that fd ended a sleep
    uint32_t index         # place in the poller's array
    uint32_t nap_ns        # arm sets it, when no fd tells of what it waits for: the longest sleep; 0: as long as may be
    int fd                 # watched while asleep (and each round, if watched); -1 for none
    uint8_t watched        # fd is a socket that is looked at each round; otherwise it is an eventfd, that the
                           # poller drains and that only ends a sleep
    uint8_t wanted         # the poller's: ReadyFlag that epoll looks for
    uint8_t ready          # watched: ReadyFlag that epoll saw; poll clears it
    uint8_t dirty          # flush wanted
    char name[40]

cdef struct PollerCore:
    # first line: what others write
    MessagePtr inbox       # lock-free stack, newest first
    int sleeping
    int evfd               # ends a sleep
    int stop
    # the poller's own
    uint64_t now           # CLOCK_MONOTONIC ns, read each round, and again when answers or messages come
    IoPtr deferred         # I/Os to complete in the next round (linked by msg.next)
    IoPtr deferred_tail
    Source **sources       # NULL where one was removed in this round
    uint32_t n_sources
    uint32_t removed
    uint32_t n_watched
    uint32_t in_flight     # I/Os submitted on this poller's channels and not yet completed
    int epfd
    uint64_t poll_ns       # how long to spin without work before sleeping
    uint8_t busy_mode
    uint64_t next_tick
    uint64_t busy_ns
    uint64_t idle_ns
    uint64_t sleep_ns
    uint64_t rounds
    uint64_t sleeps
    uint64_t heartbeat_ns  # end of the last round
    uint64_t kicking       # since when it writes to an eventfd that a device shares; 0: it does not
    Mailbox *control       # where events for the control plane go

# ---- bdev ---------------------------------------------------------------------------------------

cdef enum Op:
    READ = 0
    WRITE = 1
    FLUSH = 2
    UNMAP = 3
    WRITE_ZEROES = 4

cdef enum:
    OP_COUNT = 5

cdef enum IoFlag:
    FUA = 1            # WRITE, WRITE_ZEROES: on stable storage when completed
    NO_HOLE = 2        # WRITE_ZEROES: do not deallocate
    UNSEEN = 4         # READ: nobody is shown what is read, so that a device without data need not clear the buffer
    HANDS_OVER = 8     # WRITE: its buffers are of its poller's pool and may stay with the bdev, which sets iovcnt to 0
    THROUGH = 16       # the channel's: WRITE that can't be kept, so a flush follows it

cdef enum:
    EPOCH_OPEN = 0x7fffffff    # Io.epoch: of the session that has just ended, which may be over

# One block I/O. Owned by who submits it, who keeps it and its buffers untouched until done() is called.
# offset and length are in bytes, multiples of the block size. iov must lie in DMA memory (READ, WRITE);
# its total must be length. status is 0 or -errno.
ctypedef void (*io_done_fn)(Io *io) noexcept nogil
cdef struct Io:
    Message msg            # first: an Io is handed to another poller as a message, and linked by msg.next
    Channel *channel       # set by channel.submit
    io_done_fn done        # called once, on the poller that submitted, never from inside channel.submit
    void *owner            # the submitter's
    uint64_t offset
    uint64_t length
    iovec *iov
    uint32_t iovcnt
    uint8_t op             # an Op
    uint8_t flags          # IoFlag
    int32_t status
    uint64_t submitted_ns
    uint64_t *losses_seen  # of its user, who hears once of each loss, by a flush; NULL: never
    iovec one              # room for the common single segment: iov = &one
    # the channel's: list of what is in flight, oldest first
    Io *prev
    Io *next
    # the channel's, where writes are kept (bdev/kept)
    void *kept             # the first KeptWrite that was reserved for it
    uint64_t mark          # of a flush: what was acknowledged below this number is stable when it succeeds
    # owned by what serves the bdev, from channel.submit to channel.finish
    uint64_t cursor        # bytes of the I/O handed to the device so far
    uint32_t iov_index     # where the cursor is in iov
    uint64_t iov_offset
    uint32_t pieces        # requests in flight for it
    uint8_t phase          # what serves the bdev sets it
    uint8_t placed         # a place in its unit's share is kept for its next request
    uint8_t again          # the device went away: it begins again, as what was written may be gone
    uint64_t epoch         # from done() on: the session whose device may still use the buffers; 0: none may

# Latencies in ns are counted in buckets: 32 for each power of two, linear inside (HdrHistogram's shape). What follows
# from these numbers is in bdev/histogram.
cdef enum:
    HIST_SUB_BITS = 5
    HIST_RANGES = 34       # up to 2^38 ns (275 s); above is counted in the last
    HIST_BUCKETS = HIST_RANGES << HIST_SUB_BITS

cdef enum ErrorClass:
    IO = 0              # EIO
    NOSPC = 1           # ENOSPC: beyond the end
    INVAL = 2           # EINVAL: unaligned, malformed
    PERM = 3            # EPERM/EROFS: read-only
    NOTSUP = 4          # EOPNOTSUPP
    TIMEOUT = 5         # ETIMEDOUT
    NODEV = 6           # ENODEV: removed
    OTHER = 7

cdef enum:
    ERROR_COUNT = 8

# I/Os of one operation, as one poller counts them. Owned by that poller; may be read by anyone.
cdef struct OpStats:
    uint64_t submitted
    uint64_t completed     # with success
    uint64_t failed
    uint64_t bytes         # of completed
    uint64_t time_ns       # sum of the latencies of completed
    uint64_t min_ns        # of completed, since the last reset by RPC; UINT64_MAX when none
    uint64_t max_ns
    uint64_t failed_ns     # the same of failed
    uint64_t failed_min_ns
    uint64_t failed_max_ns
    uint64_t errors[ERROR_COUNT]  # of failed, by ErrorClass
    uint64_t buckets[HIST_BUCKETS]

# A bdev as one poller sees it. Owned by that poller; counters may be read by anyone.
ctypedef void (*channel_submit_fn)(Channel *ch, Io *io) noexcept nogil
cdef struct Channel:
    PollerCore *poller
    BdevCore *bdev
    channel_submit_fn submit   # of what serves the bdev
    void *device               # what submit works on (a queue of this or of another poller)
    void *keep                 # a Keep (bdev/kept); NULL: nothing is kept, nor counted
    Holding *holding           # of its controller; NULL for a bdev that answers for certain
    Io *oldest                 # in flight, in order of submission
    Io *newest
    uint64_t oldest_ns         # submitted_ns of oldest, 0 for none: may be read by anyone
    uint64_t in_flight
    uint64_t busy_since
    uint64_t busy_ns           # time with at least one I/O in flight, up to the last change
    OpStats ops[OP_COUNT]

# What the bdevs of one controller hold of one poller's buffers, in bytes. Owned by the poller; may be read by anyone.
cdef struct Holding:
    uint64_t used_small        # by I/O, and in quarantine; by the size of the buffers
    uint64_t used_large
    uint64_t small             # of them in quarantine
    uint64_t large

# What all channels of a bdev share. Written by the control plane, 64-bit fields atomically.
cdef struct BdevCore:
    uint64_t size              # bytes
    uint32_t block_size        # bytes, a power of two from 512
    uint32_t ops               # bit per Op
    uint8_t read_only
    uint8_t write_cache        # what was written may be lost until a flush, as of cache_known
    uint8_t closed             # every new I/O fails with ENODEV
    # what one request to the device may be; I/O is split by it. Set before the first I/O
    uint32_t native            # bit per Op that the device has a command for
    uint32_t max_segments
    uint32_t max_segment       # bytes
    uint64_t max_transfer      # bytes, of READ and WRITE
    uint64_t max_unmap         # bytes
    uint64_t max_write_zeroes  # bytes
    # for a device of several units
    uint64_t unit              # the unit's address, as requests carry it
    uint8_t native_fua         # WRITE takes FUA along: no flush is needed after it
    uint8_t zeroes_unmap       # WRITE_ZEROES may deallocate
    uint8_t flush_if_cached    # without a volatile cache it may not know the command for FLUSH
    uint8_t disowned           # another disk is in its place: I/O that was not sent, and all that comes, fails with ENODEV
    uint8_t was_reset          # what its cache held may be lost: kept writes come first
    UnitShare *shares          # by IoQueue.number; NULL: a ring can't hold more than the unit takes
    # counted by any thread, atomically
    uint64_t cache_doubts      # times that the device may have changed its cache's mode
    uint64_t cache_known       # the control plane's: those of them that write_cache covers
    uint64_t identity_doubts   # times that the disk may have become another one
    uint64_t identity_known    # the control plane's: those of them after which it was the same
    # writes to a volatile cache, counted over all channels (bdev/kept); apart from what each I/O reads
    uint64_t apart[7]
    uint64_t acknowledged      # so many: the number of the next one
    uint64_t stable            # all below this number
    uint64_t not_kept          # all below this number that could not be kept; 0: none
    uint64_t losses            # times that acknowledged writes were lost
    void **keeps               # of its channels
    uint32_t n_keeps
    uint8_t keeps_no_more      # the device refused a flush

# What one queue may have in flight for one unit. Owned by the queue's poller.
cdef struct UnitShare:
    uint32_t limit
    uint32_t taken             # requests in flight, and places kept for I/Os in the queue's line
    Io *waiting                # for a place, linked by msg.next; only while all are taken
    Io *waiting_tail
