"""Constants and structs of the NBD protocol. All numbers are in network byte order.

Only the handshake phase is packed and unpacked here: requests and replies of the transmission phase are the
data plane's, which shares these values.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

# "Newstyle negotiation"
MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
REPLY_MAGIC = 0x0003E889045565A9

GREETING = struct.Struct(">QQH")  # MAGIC, OPTION_MAGIC, handshake flags
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")  # OPTION_MAGIC, option, length of its data
REPLY = struct.Struct(">QIII")  # REPLY_MAGIC, option, reply type, length of its data
EXPORT_NAME_REPLY = struct.Struct(">QH")  # size, transmission flags
EXPORT_NAME_ZEROES = bytes(124)  # follow it, unless NO_ZEROES was agreed
LENGTH = struct.Struct(">I")  # before a name
COUNT = struct.Struct(">H")  # of information requests
INFO_EXPORT = struct.Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE = struct.Struct(">HIII")  # type, minimum, preferred, maximum payload
INFO_TYPE = struct.Struct(">H")

MAX_STRING = 4096  # "Values": no string is longer, in bytes


class HandshakeFlag(IntFlag):
    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_FAST_ZERO = 1 << 11


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


def reply(option: int, kind: Reply, data: bytes = b"") -> bytes:
    """Builds one reply to an option ("Option reply types")."""
    return REPLY.pack(REPLY_MAGIC, option, kind, len(data)) + data


def string(text: str) -> bytes:
    """Builds a name as REP_SERVER carries it: its length (32 bits), then UTF-8."""
    data = text.encode()
    return LENGTH.pack(len(data)) + data
