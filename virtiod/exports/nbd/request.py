"""NBD requests, judged, and the replies to them: functions of bytes and numbers, without a socket.

The rules are those of the protocol document's "Request types", "Error values" and "Size constraints".
"""

from __future__ import annotations

from typing import NamedTuple

import cython
from cython.cimports.libc.errno import (
    EDQUOT,
    EFBIG,
    EINVAL,
    ENODEV,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESHUTDOWN,
    ETIMEDOUT,
)
from cython.cimports.libc.stdint import int32_t, uint32_t
from cython.cimports.libc.string import memcpy, strlen
from cython.cimports.virtiod.core.atomics import vd_swap16, vd_swap32, vd_swap64
from cython.cimports.virtiod.core.types import CharPtr
from cython.cimports.virtiod.exports.nbd.request import (
    FAIL_BEYOND,
    FAIL_COMMAND,
    FAIL_DEVICE,
    FAIL_EMPTY,
    FAIL_ENDING,
    FAIL_FLAGS,
    FAIL_INVALID,
    FAIL_LONG,
    FAIL_LONG_READ,
    FAIL_MEMORY,
    FAIL_NO_SPACE,
    FAIL_NONE,
    FAIL_NOT_FAST,
    FAIL_READ_ONLY,
    FAIL_RESERVED,
    FAIL_TIMEOUT,
    FAIL_UNALIGNED,
    NBD_CMD_DISC,
    NBD_CMD_FLAG_DF,
    NBD_CMD_FLAG_FAST_ZERO,
    NBD_CMD_FLAG_FUA,
    NBD_CMD_FLAG_NO_HOLE,
    NBD_CMD_FLUSH,
    NBD_CMD_READ,
    NBD_CMD_TRIM,
    NBD_CMD_WRITE,
    NBD_CMD_WRITE_ZEROES,
    NBD_EINVAL,
    NBD_EIO,
    NBD_ENOMEM,
    NBD_ENOSPC,
    NBD_ENOTSUP,
    NBD_EOVERFLOW,
    NBD_EPERM,
    NBD_ESHUTDOWN,
    NBD_FLAG_READ_ONLY,
    NBD_FLAG_SEND_FAST_ZERO,
    NBD_FLAG_SEND_TRIM,
    NBD_FLAG_SEND_WRITE_ZEROES,
    NBD_MAX_PAYLOAD,
    NBD_REPLY_MAX,
    NBD_REQUEST_SIZE,
    ChunkPtr,
    DataChunkPtr,
    ErrorChunkPtr,
    NbdDataChunk,
    NbdErrorChunk,
    NbdLimits,
    NbdLimitsPtr,
    NbdRequest,
    NbdRequestPtr,
    NbdSimpleReply,
    RequestWirePtr,
    SimpleReplyPtr,
    TextPtr,
)

REQUEST_MAGIC = cython.declare(uint32_t, 0x25609513)
SIMPLE_REPLY_MAGIC = cython.declare(uint32_t, 0x67446698)
STRUCTURED_REPLY_MAGIC = cython.declare(uint32_t, 0x668E33EF)
REPLY_FLAG_DONE = cython.declare(cython.uint, 1)
TYPE_OFFSET_DATA = cython.declare(cython.uint, 1)
TYPE_ERROR = cython.declare(cython.uint, 0x8001)


def nbd_decode(data: TextPtr, r: NbdRequestPtr) -> cython.bint:
    w: RequestWirePtr = cython.cast(RequestWirePtr, data)
    if vd_swap32(w.magic) != REQUEST_MAGIC:
        return False
    r.flags = vd_swap16(w.flags)
    r.type = vd_swap16(w.type)
    r.cookie = w.cookie  # opaque
    r.offset = vd_swap64(w.offset)
    r.length = vd_swap32(w.length)
    return True


def nbd_check(r: NbdRequestPtr, limits: NbdLimitsPtr) -> cython.int:
    valid: cython.uint = NBD_CMD_FLAG_FUA  # "Command flags": to be accepted with any command
    if r.type == NBD_CMD_READ:
        if limits.structured:
            valid |= NBD_CMD_FLAG_DF
    elif r.type == NBD_CMD_TRIM:
        if not limits.flags & (NBD_FLAG_SEND_TRIM | NBD_FLAG_READ_ONLY):
            return FAIL_COMMAND
    elif r.type == NBD_CMD_WRITE_ZEROES:
        if not limits.flags & (NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_READ_ONLY):
            return FAIL_COMMAND
        valid |= NBD_CMD_FLAG_NO_HOLE
        if limits.flags & NBD_FLAG_SEND_FAST_ZERO:
            valid |= NBD_CMD_FLAG_FAST_ZERO
    elif r.type != NBD_CMD_WRITE and r.type != NBD_CMD_FLUSH:
        return FAIL_COMMAND
    if r.type != NBD_CMD_READ and r.type != NBD_CMD_FLUSH and limits.flags & NBD_FLAG_READ_ONLY:
        return FAIL_READ_ONLY
    if r.flags & ~valid:
        return FAIL_FLAGS
    if r.type == NBD_CMD_FLUSH:
        return FAIL_RESERVED if r.offset or r.length else FAIL_NONE
    return _check_range(r, limits)


def _check_range(r: NbdRequestPtr, limits: NbdLimitsPtr) -> cython.int:
    if r.length == 0:
        return FAIL_EMPTY
    if r.length > limits.max_payload:
        if r.type == NBD_CMD_WRITE:
            return FAIL_LONG
        if r.type == NBD_CMD_READ:
            return FAIL_LONG_READ if limits.structured else FAIL_LONG
    if (r.offset | r.length) & (limits.block_size - 1):
        return FAIL_UNALIGNED
    if r.offset > limits.size or r.length > limits.size - r.offset:
        return FAIL_NO_SPACE if r.type == NBD_CMD_WRITE or r.type == NBD_CMD_WRITE_ZEROES else FAIL_BEYOND
    if r.flags & NBD_CMD_FLAG_FAST_ZERO and not limits.fast_zero:
        return FAIL_NOT_FAST
    return FAIL_NONE


def nbd_failure(r: NbdRequestPtr, status: int32_t) -> cython.int:
    if status == 0:
        return FAIL_NONE
    if status == -ENOSPC or status == -EDQUOT or status == -EFBIG:
        return FAIL_NO_SPACE if r.type == NBD_CMD_WRITE or r.type == NBD_CMD_WRITE_ZEROES else FAIL_BEYOND
    if status == -EPERM or status == -EROFS:
        return FAIL_READ_ONLY
    if status == -EINVAL:
        return FAIL_INVALID
    if status == -EOPNOTSUPP:
        return FAIL_NOT_FAST if r.flags & NBD_CMD_FLAG_FAST_ZERO else FAIL_COMMAND
    if status == -ENODEV or status == -ESHUTDOWN:
        return FAIL_ENDING
    if status == -ENOMEM:
        return FAIL_MEMORY
    if status == -ETIMEDOUT:
        return FAIL_TIMEOUT
    return FAIL_DEVICE


def _error(failure: cython.int) -> uint32_t:
    """ "Error values" of a FAIL_*."""
    if failure == FAIL_NONE:
        return 0
    if failure == FAIL_READ_ONLY:
        return NBD_EPERM
    if failure == FAIL_NO_SPACE:
        return NBD_ENOSPC
    if failure == FAIL_LONG_READ:
        return NBD_EOVERFLOW
    if failure == FAIL_NOT_FAST:
        return NBD_ENOTSUP
    if failure == FAIL_ENDING:
        return NBD_ESHUTDOWN
    if failure == FAIL_MEMORY:
        return NBD_ENOMEM
    if failure == FAIL_TIMEOUT or failure == FAIL_DEVICE:
        return NBD_EIO
    return NBD_EINVAL


def _text(failure: cython.int) -> TextPtr:
    """At most 64 bytes: it must fit behind the error chunk in NBD_REPLY_MAX."""
    if failure == FAIL_COMMAND:
        return b"the export does not offer this command"
    if failure == FAIL_FLAGS:
        return b"a flag is not valid for this command"
    if failure == FAIL_READ_ONLY:
        return b"the export is read-only"
    if failure == FAIL_RESERVED:
        return b"a flush has no offset and no length"
    if failure == FAIL_EMPTY:
        return b"the length is 0"
    if failure == FAIL_LONG or failure == FAIL_LONG_READ:
        return b"longer than the maximum payload"
    if failure == FAIL_UNALIGNED:
        return b"not aligned to the minimum block size"
    if failure == FAIL_BEYOND or failure == FAIL_NO_SPACE:
        return b"beyond the end of the export"
    if failure == FAIL_NOT_FAST:
        return b"zeroing is not faster than writing here"
    if failure == FAIL_ENDING:
        return b"the export is ending"
    if failure == FAIL_MEMORY:
        return b"too little buffer memory is left"
    if failure == FAIL_TIMEOUT:
        return b"the device did not answer in time"
    if failure == FAIL_INVALID:
        return b"the device refused the request"
    return b"the device failed"


def nbd_reply(to: CharPtr, r: NbdRequestPtr, failure: cython.int, structured: cython.bint) -> uint32_t:
    simple: SimpleReplyPtr
    data: DataChunkPtr
    if structured and failure != FAIL_NONE:
        return _error_chunk(to, r, failure)
    if structured and r.type == NBD_CMD_READ:
        data = cython.cast(DataChunkPtr, to)
        _chunk(cython.address(data.chunk), r, TYPE_OFFSET_DATA, 8 + r.length)
        data.offset = vd_swap64(r.offset)
        return cython.sizeof(NbdDataChunk)
    simple = cython.cast(SimpleReplyPtr, to)
    simple.magic = vd_swap32(SIMPLE_REPLY_MAGIC)
    simple.error = vd_swap32(_error(failure))
    simple.cookie = r.cookie
    return cython.sizeof(NbdSimpleReply)


def _error_chunk(to: CharPtr, r: NbdRequestPtr, failure: cython.int) -> uint32_t:
    chunk: ErrorChunkPtr = cython.cast(ErrorChunkPtr, to)
    text: TextPtr = _text(failure)
    length: uint32_t = cython.cast(uint32_t, strlen(text))
    if length > NBD_REPLY_MAX - cython.sizeof(NbdErrorChunk):
        length = NBD_REPLY_MAX - cython.sizeof(NbdErrorChunk)
    _chunk(cython.address(chunk.chunk), r, TYPE_ERROR, 6 + length)
    chunk.error = vd_swap32(_error(failure))
    chunk.message_length = vd_swap16(length)
    memcpy(to + cython.sizeof(NbdErrorChunk), text, length)
    return cython.sizeof(NbdErrorChunk) + length


def _chunk(c: ChunkPtr, r: NbdRequestPtr, type: cython.uint, length: uint32_t) -> None:
    """The one chunk of a reply: DONE is set."""
    c.magic = vd_swap32(STRUCTURED_REPLY_MAGIC)
    c.flags = vd_swap16(REPLY_FLAG_DONE)
    c.type = vd_swap16(type)
    c.cookie = r.cookie
    c.length = vd_swap32(length)


class Judged(NamedTuple):
    """A request, and what it is answered before any I/O: error 0 when there is nothing against it."""

    type: int
    flags: int
    offset: int
    length: int
    cookie: int
    error: int
    reply: bytes


def judge(
    data: bytes,
    size: int = 1 << 30,
    block_size: int = 512,
    flags: int = 0xFFFF & ~NBD_FLAG_READ_ONLY,
    structured: bool = True,
    fast_zero: bool = False,
    max_payload: int = NBD_MAX_PAYLOAD,
) -> Judged | None:
    """The request in the first 28 bytes of data; None when they are too few or no request. For tests and fuzzing."""
    r: NbdRequest
    limits: NbdLimits
    failure: cython.int
    reply: cython.char[NBD_REPLY_MAX]
    if len(data) < NBD_REQUEST_SIZE or not nbd_decode(data, cython.address(r)):
        return None
    limits.size = size
    limits.max_payload = max_payload
    limits.block_size = block_size
    limits.flags = flags
    limits.structured = structured
    limits.fast_zero = fast_zero
    failure = FAIL_NONE if r.type == NBD_CMD_DISC else nbd_check(cython.address(r), cython.address(limits))
    length: cython.uint = nbd_reply(reply, cython.address(r), failure, structured)
    return Judged(r.type, r.flags, r.offset, r.length, vd_swap64(r.cookie), _error(failure), reply[:length])
