# NBD requests and replies, as bytes and as numbers; how they are judged is in nbd_request.py.
# Protocol document: "Request message", "Simple reply message", "Structured reply chunk message".
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NBD_REQUEST_SIZE = 28
    NBD_REPLY_MAX = 96         # bytes of the longest reply, without the data of a READ
    NBD_MAX_PAYLOAD = 33554432

cdef enum:
    NBD_CMD_READ = 0
    NBD_CMD_WRITE = 1
    NBD_CMD_DISC = 2
    NBD_CMD_FLUSH = 3
    NBD_CMD_TRIM = 4
    NBD_CMD_WRITE_ZEROES = 6

cdef enum:
    NBD_CMD_FLAG_FUA = 1
    NBD_CMD_FLAG_NO_HOLE = 2
    NBD_CMD_FLAG_DF = 4
    NBD_CMD_FLAG_FAST_ZERO = 16

cdef enum:
    NBD_FLAG_READ_ONLY = 2
    NBD_FLAG_SEND_TRIM = 32
    NBD_FLAG_SEND_WRITE_ZEROES = 64
    NBD_FLAG_SEND_FAST_ZERO = 2048

cdef enum:
    NBD_EPERM = 1
    NBD_EIO = 5
    NBD_ENOMEM = 12
    NBD_EINVAL = 22
    NBD_ENOSPC = 28
    NBD_EOVERFLOW = 75
    NBD_ENOTSUP = 95
    NBD_ESHUTDOWN = 108

# Why a request fails: an error value and a text, for the client.
cdef enum:
    FAIL_NONE = 0
    FAIL_COMMAND
    FAIL_FLAGS
    FAIL_READ_ONLY
    FAIL_RESERVED
    FAIL_EMPTY
    FAIL_LONG
    FAIL_LONG_READ
    FAIL_UNALIGNED
    FAIL_BEYOND
    FAIL_NO_SPACE
    FAIL_NOT_FAST
    FAIL_ENDING
    FAIL_MEMORY
    FAIL_TIMEOUT
    FAIL_INVALID
    FAIL_DEVICE

cdef packed struct NbdRequestWire:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint64_t offset
    uint32_t length

cdef packed struct NbdSimpleReply:
    uint32_t magic
    uint32_t error
    uint64_t cookie

cdef packed struct NbdChunk:
    uint32_t magic
    uint16_t flags
    uint16_t type
    uint64_t cookie
    uint32_t length

cdef packed struct NbdDataChunk:
    NbdChunk chunk
    uint64_t offset

cdef packed struct NbdErrorChunk:
    NbdChunk chunk
    uint32_t error
    uint16_t message_length

ctypedef const NbdRequestWire *RequestWirePtr
ctypedef NbdSimpleReply *SimpleReplyPtr
ctypedef NbdChunk *ChunkPtr
ctypedef NbdDataChunk *DataChunkPtr
ctypedef NbdErrorChunk *ErrorChunkPtr
ctypedef const char *TextPtr

# A request in the host's byte order.
ctypedef NbdRequest *NbdRequestPtr
cdef struct NbdRequest:
    uint64_t cookie
    uint64_t offset
    uint32_t length
    uint16_t flags
    uint16_t type

# What the requests of a connection are judged by.
ctypedef NbdLimits *NbdLimitsPtr
cdef struct NbdLimits:
    uint64_t size              # of the export, in bytes, now
    uint64_t max_payload       # bytes
    uint32_t block_size        # bytes, a power of two
    uint16_t flags             # transmission flags that the client was told
    uint8_t structured         # replies were negotiated
    uint8_t fast_zero          # the device zeroes without being sent zeroes

# Request at `data` (NBD_REQUEST_SIZE bytes) -> r; false if its magic is wrong.
cdef bint nbd_decode(const char *data, NbdRequest *r) noexcept nogil
# FAIL_NONE, or why the request can't be: every rule is here. Not for DISC.
cdef int nbd_check(NbdRequest *r, NbdLimits *limits) noexcept nogil
# The FAIL_* of an I/O that ended with status.
cdef int nbd_failure(NbdRequest *r, int32_t status) noexcept nogil
# The reply to r at `to` (NBD_REPLY_MAX bytes), without the data of a READ; its length.
cdef uint32_t nbd_reply(char *to, NbdRequest *r, int failure, bint structured) noexcept nogil

cdef int _check_range(NbdRequest *r, NbdLimits *limits) noexcept nogil
cdef uint32_t _error(int failure) noexcept nogil
cdef const char *_text(int failure) noexcept nogil
cdef uint32_t _error_chunk(char *to, NbdRequest *r, int failure) noexcept nogil
cdef void _chunk(NbdChunk *c, NbdRequest *r, unsigned int type, uint32_t length) noexcept nogil
