"""The vhost-user messages: constants, structures, and pure functions that build and check them.

Everything is in the host's byte order (vhost-user specification, "Message Specification"). What breaks a rule raises
ProtocolError, which names the message. Nothing here uses a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from virtiod.core.counted import counted
from virtiod.core.errors import ProtocolError


class Request(IntEnum):
    """Front-end message types ("Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(IntEnum):
    """Back-end message types ("Back-end message types"), on the back-end's own channel."""

    CONFIG_CHANGE_MSG = 2


class ProtocolFeature(IntEnum):
    """Bits of GET_PROTOCOL_FEATURES ("Protocol features")."""

    MQ = 0
    REPLY_ACK = 3
    BACKEND_REQ = 5
    CONFIG = 9
    RESET_DEVICE = 13
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


# Bits that GET_FEATURES has besides the device's own: they belong to vhost, not to virtio.
F_LOG_ALL = 1 << 26
F_PROTOCOL_FEATURES = 1 << 30

VERSION = 1
VERSION_MASK = 3
FLAG_REPLY = 1 << 2
FLAG_NEED_REPLY = 1 << 3
FLAGS_KNOWN = VERSION_MASK | FLAG_REPLY | FLAG_NEED_REPLY

MAX_TABLE_REGIONS = 8
MAX_CONFIG = 256
BACKEND_QUEUE_SIZE = 1024  # entries: the largest ring that all back-ends take
MAX_QUEUES = 256  # SET_VRING_KICK, _CALL and _ERR have 8 bits for the index
NO_FD = 1 << 8  # SET_VRING_KICK, _CALL, _ERR: no file descriptor comes with it

HEADER = struct.Struct("=III")  # request, flags, size of the payload
U64 = struct.Struct("=Q")
VRING_STATE = struct.Struct("=II")  # index, num
VRING_ADDR = struct.Struct("=IIQQQQ")  # index, flags, desc, used, avail, log: user addresses
TABLE_HEAD = struct.Struct("=II")  # number of regions, padding
REGION = struct.Struct("=QQQQ")  # guest-physical address, size, user address, offset in the file
ONE_REGION = struct.Struct("=QQQQQ")  # padding, and a region
CONFIG_HEAD = struct.Struct("=III")  # offset, size, flags

# The longest payload of any message that is understood: a whole configuration space, or a whole table.
MAX_PAYLOAD = max(CONFIG_HEAD.size + MAX_CONFIG, TABLE_HEAD.size + MAX_TABLE_REGIONS * REGION.size)


class Frame(NamedTuple):
    """One message, header checked."""

    request: int
    flags: int
    payload: bytes

    @property
    def is_reply(self) -> bool:
        return bool(self.flags & FLAG_REPLY)

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & FLAG_NEED_REPLY)


class MemoryRegion(NamedTuple):
    """A piece of the front-end's memory, as SET_MEM_TABLE, ADD_MEM_REG and REM_MEM_REG describe it; sizes in bytes."""

    guest: int
    size: int
    user: int
    offset: int


class VringAddr(NamedTuple):
    """SET_VRING_ADDR: the parts of a ring, as user addresses of the front-end."""

    ring: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


def request_name(request: int) -> str:
    """The name of a front-end message, or its number."""
    try:
        return Request(request).name
    except ValueError:
        return f"message {request}"


def pack(request: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Builds a message: header ("Header") and payload."""
    return HEADER.pack(request, VERSION | flags, len(payload)) + payload


class FrameReader:
    """Reads one message, piece by piece, and asks for exactly the bytes that belong to it.

    It never asks for more, so file descriptors stay with their message: they arrive with its first byte.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._total = HEADER.size

    @property
    def need(self) -> int:
        """How many bytes are missing until the header, then the message, is whole."""
        return self._total - len(self._buffer)

    @property
    def started(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: bytes) -> Frame | None:
        """Takes at most `need` bytes; returns the message when it is whole. ProtocolError for an invalid header."""
        self._buffer += data
        if self.need > 0:
            return None
        request, flags, size = HEADER.unpack_from(self._buffer)
        if self._total == HEADER.size:
            check_header(request, flags, size)
            self._total += size
            if size:
                return None
        return Frame(request, flags, bytes(self._buffer[HEADER.size :]))


def check_header(request: int, flags: int, size: int) -> None:
    """Checks what holds for every header ("Header"). Raises ProtocolError."""
    if flags & VERSION_MASK != VERSION or flags & ~FLAGS_KNOWN:
        raise ProtocolError(f"{request_name(request)}: header flags {flags:#x} are not of version {VERSION}")
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"{request_name(request)}: payload of {size} bytes is over {MAX_PAYLOAD}")


def check_reply(frame: Frame, request: int) -> bytes:
    """Checks that frame is the reply to `request`; returns its payload. Raises ProtocolError."""
    if not frame.is_reply:
        raise ProtocolError(f"{request_name(request)}: the answer is not marked as a reply (flags {frame.flags:#x})")
    if frame.request != request:
        raise ProtocolError(f"{request_name(request)}: the reply is for {request_name(frame.request)}")
    return frame.payload


def unpack(layout: struct.Struct, payload: bytes, request: int) -> tuple[int, ...]:
    """Unpacks a payload that must have exactly this layout. Raises ProtocolError."""
    if len(payload) != layout.size:
        raise ProtocolError(
            f"{request_name(request)}: payload of {counted(len(payload), 'byte')} instead of {layout.size}",
        )
    return layout.unpack(payload)


def parse_u64(payload: bytes, request: int) -> int:
    return unpack(U64, payload, request)[0]


def parse_vring_state(payload: bytes, request: int) -> tuple[int, int]:
    """(index, num) of SET_VRING_NUM, _BASE, _ENABLE, and of GET_VRING_BASE both ways ("A vring state description")."""
    index, num = unpack(VRING_STATE, payload, request)
    return index, num


def parse_vring_base(payload: bytes, index: int) -> int:
    """The base in the reply to GET_VRING_BASE for that ring."""
    got, base = parse_vring_state(payload, Request.GET_VRING_BASE)
    if got != index:
        raise ProtocolError(f"GET_VRING_BASE: the reply is for ring {got}, not {index}")
    return base


def parse_vring_fd(payload: bytes, request: int) -> tuple[int, bool]:
    """(index, whether a file descriptor comes with it) of SET_VRING_KICK, _CALL and _ERR."""
    value = parse_u64(payload, request)
    if value & ~0x1FF:
        raise ProtocolError(f"{request_name(request)}: value {value:#x} has bits that mean nothing")
    return value & 0xFF, not value & NO_FD


def parse_vring_addr(payload: bytes) -> VringAddr:
    return VringAddr(*unpack(VRING_ADDR, payload, Request.SET_VRING_ADDR))


def pack_vring_fd(index: int, with_fd: bool) -> bytes:
    return U64.pack(index if with_fd else index | NO_FD)


def _check_region(region: MemoryRegion, request: int) -> MemoryRegion:
    for what, start in (("guest", region.guest), ("user", region.user), ("file", region.offset)):
        if start + region.size > 1 << 63:
            raise ProtocolError(f"{request_name(request)}: {what} range {start:#x}+{region.size:#x} is too high")
    if region.size == 0:
        raise ProtocolError(f"{request_name(request)}: region at {region.guest:#x} is empty")
    return region


def pack_mem_table(regions: Sequence[MemoryRegion]) -> bytes:
    return TABLE_HEAD.pack(len(regions), 0) + b"".join(REGION.pack(*region) for region in regions)


def parse_mem_table(payload: bytes) -> list[MemoryRegion]:
    """The regions of SET_MEM_TABLE. A payload as long as the full table is accepted for fewer regions too."""
    request = Request.SET_MEM_TABLE
    if len(payload) < TABLE_HEAD.size:
        raise ProtocolError(f"{request.name}: payload of {counted(len(payload), 'byte')} has no room for a count")
    count, _ = TABLE_HEAD.unpack_from(payload)
    if count > MAX_TABLE_REGIONS:
        raise ProtocolError(f"{request.name}: {count} regions are over {MAX_TABLE_REGIONS}")
    full = TABLE_HEAD.size + MAX_TABLE_REGIONS * REGION.size
    if len(payload) not in (TABLE_HEAD.size + count * REGION.size, full):
        raise ProtocolError(
            f"{request.name}: payload of {counted(len(payload), 'byte')} does not hold {counted(count, 'region')}"
        )
    starts = range(TABLE_HEAD.size, TABLE_HEAD.size + count * REGION.size, REGION.size)
    return [_check_region(MemoryRegion(*REGION.unpack_from(payload, at)), request) for at in starts]


def pack_region(region: MemoryRegion) -> bytes:
    return ONE_REGION.pack(0, *region)


def parse_region(payload: bytes, request: int) -> MemoryRegion:
    """The region of ADD_MEM_REG and REM_MEM_REG."""
    return _check_region(MemoryRegion(*unpack(ONE_REGION, payload, request)[1:]), request)


def pack_config(offset: int, data: bytes, flags: int = 0) -> bytes:
    return CONFIG_HEAD.pack(offset, len(data), flags) + data


def parse_config(payload: bytes, request: int) -> tuple[int, bytes]:
    """(offset, bytes) of GET_CONFIG, SET_CONFIG and the reply to GET_CONFIG."""
    if len(payload) < CONFIG_HEAD.size:
        raise ProtocolError(
            f"{request_name(request)}: payload of {counted(len(payload), 'byte')} has no room for a header"
        )
    offset, size, _flags = CONFIG_HEAD.unpack_from(payload)
    if size != len(payload) - CONFIG_HEAD.size:
        sent = len(payload) - CONFIG_HEAD.size
        raise ProtocolError(f"{request_name(request)}: size {size} does not match the {counted(sent, 'byte')} sent")
    if offset + size > MAX_CONFIG:
        raise ProtocolError(f"{request_name(request)}: range {offset}+{size} is beyond {MAX_CONFIG}")
    return offset, payload[CONFIG_HEAD.size :]
