# NBD requests and replies, as bytes and as numbers.
# Protocol document: "Request message", "Simple reply message", "Structured reply chunk message".
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    REQUEST_SIZE = 28          # bytes
    REPLY_MAX = 96             # bytes of the longest reply, without the data of a READ
    MAX_PAYLOAD = 33554432     # bytes that a client may send without asking ("Size constraints")

cdef enum Cmd:
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6

cdef enum CmdFlag:
    FUA = 1
    NO_HOLE = 2
    DF = 4
    FAST_ZERO = 16

cdef enum ErrorValue:
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108

# Why a request fails; each gives an error value and a text for the client.
cdef enum Fail:
    NONE = 0
    COMMAND
    FLAGS
    NOT_WRITABLE
    RESERVED
    EMPTY
    LONG
    LONG_READ
    UNALIGNED
    BEYOND
    NO_SPACE
    NOT_FAST
    ENDING
    MEMORY
    TIMEOUT
    INVALID
    DEVICE

cdef packed struct RequestWire:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint64_t offset
    uint32_t length

cdef packed struct SimpleReply:
    uint32_t magic
    uint32_t error
    uint64_t cookie

cdef packed struct Chunk:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint32_t length

cdef packed struct DataChunk:
    Chunk chunk
    uint64_t offset

cdef packed struct ErrorChunk:
    Chunk chunk
    uint32_t error
    uint16_t message_length

ctypedef const RequestWire *RequestWirePtr
ctypedef SimpleReply *SimpleReplyPtr
ctypedef Chunk *ChunkPtr
ctypedef DataChunk *DataChunkPtr
ctypedef ErrorChunk *ErrorChunkPtr
ctypedef const char *TextPtr

# A request in the host's byte order.
ctypedef Request *RequestPtr
cdef struct Request:
    uint64_t cookie
    uint64_t offset
    uint32_t length
    uint16_t flags
    uint16_t type

# The limits that the requests of a connection are checked against.
ctypedef Limits *LimitsPtr
cdef struct Limits:
    uint64_t size              # of the export, in bytes, now
    uint64_t max_payload       # bytes
    uint32_t block_size        # bytes, a power of two
    uint16_t flags             # transmission flags that the client was told
    uint8_t structured         # replies were negotiated
    uint8_t fast_zero          # the device can zero without receiving zeroes

# Parses the request at `data` (REQUEST_SIZE bytes) into r; false if its magic is wrong.
cdef bint decode(const char *data, Request *r) noexcept nogil
# Fail.NONE, or why the request is not valid: all rules are here. Not for DISC.
cdef int check(Request *r, Limits *limits) noexcept nogil
# The Fail of an I/O that ended with status.
cdef int failure_of(Request *r, int32_t status) noexcept nogil
# Writes the reply to r to `to` (REPLY_MAX bytes), without the data of a READ; returns its length in bytes.
cdef uint32_t reply(char *to, Request *r, int failure, bint structured) noexcept nogil

# ---- private: for the module itself
cdef int _check_range(Request *r, Limits *limits) noexcept nogil
cdef uint32_t _error(int failure) noexcept nogil
cdef const char *_text(int failure) noexcept nogil
cdef uint32_t _error_chunk(char *to, Request *r, int failure) noexcept nogil
cdef void _chunk(Chunk *c, Request *r, unsigned int type, uint32_t length) noexcept nogil
