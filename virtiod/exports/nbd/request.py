"""Checks NBD requests and builds the replies to them: functions of bytes and numbers, without a socket.

The rules are those of the protocol document's "Request types", "Error values" and "Size constraints".
"""

from __future__ import annotations

from typing import NamedTuple

import cython
from cython import address, cast, sizeof
from cython.cimports.libc import errno
from cython.cimports.libc.stdint import int32_t, uint32_t
from cython.cimports.libc.string import memcpy, strlen
from cython.cimports.virtiod.core import bits
from cython.cimports.virtiod.core.types import CharPtr
from cython.cimports.virtiod.exports.nbd.request import (
    MAX_PAYLOAD,
    REPLY_MAX,
    REQUEST_SIZE,
    ChunkPtr,
    Cmd,
    CmdFlag,
    DataChunk,
    DataChunkPtr,
    ErrorChunk,
    ErrorChunkPtr,
    ErrorValue,
    Fail,
    Limits,
    LimitsPtr,
    Request,
    RequestPtr,
    RequestWirePtr,
    SimpleReply,
    SimpleReplyPtr,
    TextPtr,
)

from virtiod.exports.nbd.wire import TransmissionFlag

REQUEST_MAGIC = cython.declare(uint32_t, 0x25609513)
SIMPLE_REPLY_MAGIC = cython.declare(uint32_t, 0x67446698)
STRUCTURED_REPLY_MAGIC = cython.declare(uint32_t, 0x668E33EF)
REPLY_FLAG_DONE = cython.declare(cython.uint, 1)
TYPE_OFFSET_DATA = cython.declare(cython.uint, 1)
TYPE_ERROR = cython.declare(cython.uint, 0x8001)
READ_ONLY = cython.declare(cython.uint, TransmissionFlag.READ_ONLY)
SEND_TRIM = cython.declare(cython.uint, TransmissionFlag.SEND_TRIM)
SEND_WRITE_ZEROES = cython.declare(cython.uint, TransmissionFlag.SEND_WRITE_ZEROES)
SEND_FAST_ZERO = cython.declare(cython.uint, TransmissionFlag.SEND_FAST_ZERO)


def decode(data: TextPtr, r: RequestPtr) -> cython.bint:
    w: RequestWirePtr = cast(RequestWirePtr, data)
    if bits.swap32(w.magic) != REQUEST_MAGIC:
        return False
    r.flags = bits.swap16(w.flags)
    r.type = bits.swap16(w.type)
    r.cookie = w.cookie  # opaque
    r.offset = bits.swap64(w.offset)
    r.length = bits.swap32(w.length)
    return True


def check(r: RequestPtr, limits: LimitsPtr) -> cython.int:
    valid: cython.uint = CmdFlag.FUA  # "Command flags": to be accepted with any command
    if r.type == Cmd.READ:
        if limits.structured:
            valid |= CmdFlag.DF
    elif r.type == Cmd.TRIM:
        if not limits.flags & (SEND_TRIM | READ_ONLY):
            return Fail.COMMAND
    elif r.type == Cmd.WRITE_ZEROES:
        if not limits.flags & (SEND_WRITE_ZEROES | READ_ONLY):
            return Fail.COMMAND
        valid |= CmdFlag.NO_HOLE
        if limits.flags & SEND_FAST_ZERO:
            valid |= CmdFlag.FAST_ZERO
    elif r.type != Cmd.WRITE and r.type != Cmd.FLUSH:
        return Fail.COMMAND
    if r.type != Cmd.READ and r.type != Cmd.FLUSH and limits.flags & READ_ONLY:
        return Fail.NOT_WRITABLE
    if r.flags & ~valid:
        return Fail.FLAGS
    if r.type == Cmd.FLUSH:
        return Fail.RESERVED if r.offset or r.length else Fail.NONE
    return _check_range(r, limits)


def _check_range(r: RequestPtr, limits: LimitsPtr) -> cython.int:
    if r.length == 0:
        return Fail.EMPTY
    if r.length > limits.max_payload:
        if r.type == Cmd.WRITE:
            return Fail.LONG
        if r.type == Cmd.READ:
            return Fail.LONG_READ if limits.structured else Fail.LONG
    if (r.offset | r.length) & (limits.block_size - 1):
        return Fail.UNALIGNED
    if r.offset > limits.size or r.length > limits.size - r.offset:
        return Fail.NO_SPACE if r.type == Cmd.WRITE or r.type == Cmd.WRITE_ZEROES else Fail.BEYOND
    if r.flags & CmdFlag.FAST_ZERO and not limits.fast_zero:
        return Fail.NOT_FAST
    return Fail.NONE


def failure_of(r: RequestPtr, status: int32_t) -> cython.int:
    if status == 0:
        return Fail.NONE
    if status == -errno.ENOSPC or status == -errno.EDQUOT or status == -errno.EFBIG:
        return Fail.NO_SPACE if r.type == Cmd.WRITE or r.type == Cmd.WRITE_ZEROES else Fail.BEYOND
    if status == -errno.EPERM or status == -errno.EROFS:
        return Fail.NOT_WRITABLE
    if status == -errno.EINVAL:
        return Fail.INVALID
    if status == -errno.EOPNOTSUPP:
        return Fail.NOT_FAST if r.flags & CmdFlag.FAST_ZERO else Fail.COMMAND
    if status == -errno.ENODEV or status == -errno.ESHUTDOWN:
        return Fail.ENDING
    if status == -errno.ENOMEM:
        return Fail.MEMORY
    if status == -errno.ETIMEDOUT:
        return Fail.TIMEOUT
    return Fail.DEVICE


def _error(failure: cython.int) -> uint32_t:
    """The value of a Fail ("Error values")."""
    if failure == Fail.NONE:
        return 0
    if failure == Fail.NOT_WRITABLE:
        return ErrorValue.EPERM
    if failure == Fail.NO_SPACE:
        return ErrorValue.ENOSPC
    if failure == Fail.LONG_READ:
        return ErrorValue.EOVERFLOW
    if failure == Fail.NOT_FAST:
        return ErrorValue.ENOTSUP
    if failure == Fail.ENDING:
        return ErrorValue.ESHUTDOWN
    if failure == Fail.MEMORY:
        return ErrorValue.ENOMEM
    if failure == Fail.TIMEOUT or failure == Fail.DEVICE:
        return ErrorValue.EIO
    return ErrorValue.EINVAL


def _text(failure: cython.int) -> TextPtr:
    """The text of a Fail, of at most 64 bytes: it must fit after the error chunk in REPLY_MAX."""
    if failure == Fail.COMMAND:
        return b"the export does not offer this command"
    if failure == Fail.FLAGS:
        return b"a flag is not valid for this command"
    if failure == Fail.NOT_WRITABLE:
        return b"the export is read-only"
    if failure == Fail.RESERVED:
        return b"a flush has no offset and no length"
    if failure == Fail.EMPTY:
        return b"the length is 0"
    if failure == Fail.LONG or failure == Fail.LONG_READ:
        return b"longer than the maximum payload"
    if failure == Fail.UNALIGNED:
        return b"not aligned to the minimum block size"
    if failure == Fail.BEYOND or failure == Fail.NO_SPACE:
        return b"beyond the end of the export"
    if failure == Fail.NOT_FAST:
        return b"zeroing is not faster than writing here"
    if failure == Fail.ENDING:
        return b"the export is ending"
    if failure == Fail.MEMORY:
        return b"too little buffer memory is left"
    if failure == Fail.TIMEOUT:
        return b"the device did not answer in time"
    if failure == Fail.INVALID:
        return b"the device refused the request"
    return b"the device failed"


def reply(to: CharPtr, r: RequestPtr, failure: cython.int, structured: cython.bint) -> uint32_t:
    simple: SimpleReplyPtr
    data: DataChunkPtr
    if structured and failure != Fail.NONE:
        return _error_chunk(to, r, failure)
    if structured and r.type == Cmd.READ:
        data = cast(DataChunkPtr, to)
        _chunk(address(data.chunk), r, TYPE_OFFSET_DATA, 8 + r.length)
        data.offset = bits.swap64(r.offset)
        return sizeof(DataChunk)
    simple = cast(SimpleReplyPtr, to)
    simple.magic = bits.swap32(SIMPLE_REPLY_MAGIC)
    simple.error = bits.swap32(_error(failure))
    simple.cookie = r.cookie
    return sizeof(SimpleReply)


def _error_chunk(to: CharPtr, r: RequestPtr, failure: cython.int) -> uint32_t:
    chunk: ErrorChunkPtr = cast(ErrorChunkPtr, to)
    text: TextPtr = _text(failure)
    length: uint32_t = cast(uint32_t, strlen(text))
    if length > REPLY_MAX - sizeof(ErrorChunk):
        length = REPLY_MAX - sizeof(ErrorChunk)
    _chunk(address(chunk.chunk), r, TYPE_ERROR, 6 + length)
    chunk.error = bits.swap32(_error(failure))
    chunk.message_length = bits.swap16(length)
    memcpy(to + sizeof(ErrorChunk), text, length)
    return sizeof(ErrorChunk) + length


def _chunk(c: ChunkPtr, r: RequestPtr, type: cython.uint, length: uint32_t) -> None:
    """Writes the header of the only chunk of a reply: DONE is set ("Structured reply chunk message")."""
    c.magic = bits.swap32(STRUCTURED_REPLY_MAGIC)
    c.flags = bits.swap16(REPLY_FLAG_DONE)
    c.type = bits.swap16(type)
    c.cookie = r.cookie
    c.length = bits.swap32(length)


class Judged(NamedTuple):
    """A request, and the answer to it before any I/O: error 0 when it is valid."""

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
    flags: int = 0xFFFF & ~int(TransmissionFlag.READ_ONLY),
    structured: bool = True,
    fast_zero: bool = False,
    max_payload: int = MAX_PAYLOAD,
) -> Judged | None:
    """The request in the first 28 bytes of data; None when it is too short or no request. For tests and fuzzing."""
    r: Request
    limits: Limits
    failure: cython.int
    answer: cython.char[REPLY_MAX]
    if len(data) < REQUEST_SIZE or not decode(data, address(r)):
        return None
    limits.size = size
    limits.max_payload = max_payload
    limits.block_size = block_size
    limits.flags = flags
    limits.structured = structured
    limits.fast_zero = fast_zero
    failure = Fail.NONE if r.type == Cmd.DISC else check(address(r), address(limits))
    length: cython.uint = reply(answer, address(r), failure, structured)
    return Judged(r.type, r.flags, r.offset, r.length, bits.swap64(r.cookie), _error(failure), answer[:length])
