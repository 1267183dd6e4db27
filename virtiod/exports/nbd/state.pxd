# A connection in NBD's transmission phase, its slots, and what the connections of a poller share.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtiod.poller.buffers cimport BufferPool
from virtiod.exports.nbd.request cimport REPLY_MAX, Limits, Request
from virtiod.core.types cimport Channel, Io, Message, Source, iovec

cdef enum:
    SLOTS = 256            # requests of a connection in flight or waiting to be sent
    RECEIVE_SIZE = 65536   # bytes of the receive buffer
    FEW_SEGMENTS = 17      # of a slot's own: 1 MiB and a rest
    MANY_SEGMENTS = 513    # 32 MiB and a rest
    RECEIVE_SEGMENTS = 18  # of one readv
    LARGE_REQUESTS = 4     # of a connection at once that need so many segments
    SEND_SEGMENTS = 512    # of one sendmsg

cdef enum State:
    RUNNING = 0
    DRAINING = 1           # reads no more requests; closes when those in flight are answered
    DEAD = 2               # has no socket any more; waits for the I/Os in flight
    GONE = 3               # the control plane's again

# Why a connection ended.
cdef enum End:
    DISCONNECT = 0
    EOF = 1
    LOST = 2
    MAGIC = 3
    STOPPED = 4
    ABORTED = 5
    STALLED = 6
    START = 7

# One request. Io is first: done() gets a slot.
ctypedef Slot *SlotPtr
ctypedef Slot **SlotArray
cdef struct Slot:
    Io io
    Conn *conn
    Slot *next          # in the queue of replies
    Request request
    uint32_t reply_length  # without the data
    uint32_t data_length   # of a READ's reply
    int n_buffers          # io.iov[0..n_buffers) are the pool's
    uint8_t flush_after    # FUA of a command for which the bdev has none
    uint8_t large          # io.iov is one of the connection's large lists
    char reply[REPLY_MAX]
    iovec few[FEW_SEGMENTS]

# What the connections of one poller share: the buffers, and the queue of those that wait for some.
ctypedef Share *SharePtr
cdef struct Share:
    BufferPool *pool
    Conn *first         # only the first may take buffers
    Conn *last
    uint64_t waiting_since # of first

# Belongs to the poller from start to GONE; any thread may read the counters.
ctypedef Conn *ConnPtr
ctypedef iovec **IovArray
cdef struct Conn:
    Source source          # first
    Message ended          # to the control plane
    Share *share
    Conn *next_waiting
    Channel *channel
    Limits limits
    int fd
    uint8_t state          # a State
    uint8_t end            # an End
    uint8_t stopping       # new requests are refused; closes when those in flight are answered
    uint8_t paused         # requests wait for a slot or buffers
    uint8_t waiting        # in the share's queue
    uint8_t blocked        # the socket takes no more: READY_OUT will tell
    uint8_t hot            # busy: tried each round, out of epoll
    uint8_t streak         # receives in quick succession
    uint8_t writes_long    # the last payload was long: receive little ahead of it
    # receiving
    uint64_t last_data     # ns, when something came last
    uint64_t next_try      # hot: ns
    char *buffer           # [head, tail) is not parsed yet
    uint32_t head
    uint32_t tail
    uint64_t skip          # bytes still to come of the payload of
    Slot *refused       # a WRITE that will be answered
    int refusal            # with this Fail
    Slot *filling       # WRITE whose payload is coming
    uint32_t fill_index    # next byte goes to its io.iov[fill_index] + fill_offset
    uint64_t fill_offset
    uint64_t fill_left
    uint64_t fill_since
    # sending, oldest first
    Slot *out
    Slot *out_last
    uint64_t out_sent      # bytes of the first one that are sent
    uint64_t out_since     # when the first one became the first
    # resources
    Slot *slots
    Slot **free
    uint32_t n_free
    iovec **large
    uint32_t n_large
    uint64_t held          # bytes of requests that hold buffers
    uint64_t losses_seen   # of the bdev, that the client was told of
    uint8_t hands_over     # written data may stay with the bdev, which uses the same buffers
    # counters
    uint64_t in_flight
    uint64_t requests
    uint64_t errors
    uint64_t received
    uint64_t sent
