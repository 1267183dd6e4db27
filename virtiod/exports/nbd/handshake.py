"""The server's side of fixed newstyle negotiation: takes bytes, returns replies, uses no socket and no clock.

    flags ──client flags──> options ──GO, EXPORT_NAME──> transmission
      └──────bad bytes─────────┴────ABORT, bad bytes───> closed

Whatever the client sends is answered by a reply or leads to `closed`; nothing raises, and at most one option of
`MAX_OPTION` bytes is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from virtiod.core.counted import counted
from virtiod.exports.nbd import wire
from virtiod.exports.nbd.wire import HandshakeFlag, Info, Option, Reply, TransmissionFlag

MAX_OPTION = 4 + wire.MAX_STRING + 2 + 2 * 64  # GO with the longest name and 64 information requests
MAX_SKIPPED = 64 << 10  # a longer option is an attack, not a mistake
MAX_OPTIONS = 1024  # in one negotiation: a client that lists 500 exports and asks for each is within it
HANDSHAKE_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
DEFAULT_BLOCK_SIZE = 512  # a client that asks for no block size is expected to keep to this


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What a client is told about an export. Sizes in bytes; `flags` without SEND_DF, which is negotiated."""

    name: str
    description: str
    size: int
    flags: TransmissionFlag
    block_size: int
    preferred_size: int
    max_payload: int


class Refused(Exception):
    """The export can't be used: `reply` and the message are sent to the client."""

    def __init__(self, reply: Reply, message: str) -> None:
        super().__init__(message)
        self.reply = reply


class Directory(Protocol):
    """The exports that a negotiation can offer."""

    def offered(self) -> Iterable[ExportInfo]: ...

    def find(self, name: str, *, to_connect: bool) -> ExportInfo:
        """The export of this name ("": the default one); raises Refused. `to_connect`: to start transmission."""
        ...


class Phase(Enum):
    FLAGS = "flags"
    OPTIONS = "options"
    TRANSMISSION = "transmission"
    CLOSED = "closed"


class Handshake:
    """A negotiation. Feed it what the client sends, send each `next_reply()` before you ask for another, check `phase`.

    In TRANSMISSION, `export` is the chosen one, `structured` whether structured replies were agreed, and
    `leftover` the bytes that came after the negotiation. In CLOSED, `reason` says why.
    """

    def __init__(self, directory: Directory) -> None:
        self.phase = Phase.FLAGS
        self.export: ExportInfo | None = None
        self.structured = False
        self.reason = ""
        self._directory = directory
        self._buffer = bytearray()
        self._skip = 0  # bytes of a too long option that are still to come
        self._options = 0
        self._fixed = False
        self._zeroes = True

    @staticmethod
    def greeting() -> bytes:
        return wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, HANDSHAKE_FLAGS)

    @property
    def leftover(self) -> bytes:
        return bytes(self._buffer)

    def feed(self, data: bytes) -> None:
        """Takes what the client sent, in pieces of any length."""
        self._buffer += data

    def next_reply(self) -> bytes | None:
        """The reply to the next message (b"" when it needs none); None when more bytes are needed.

        It takes one message at a time, so that the replies that wait to be sent stay bounded, whatever a client sends.
        """
        if self.phase is Phase.FLAGS:
            return self._flags()
        if self.phase is not Phase.OPTIONS:
            return None
        if self._skip:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            return b"" if skipped else None
        if len(self._buffer) < wire.OPTION.size:
            return None
        magic, option, length = wire.OPTION.unpack_from(self._buffer)
        if magic != wire.OPTION_MAGIC:
            return self._close(f"option magic is {magic:#x}")
        if length <= MAX_OPTION and len(self._buffer) < wire.OPTION.size + length:
            return None
        self._options += 1
        if self._options > MAX_OPTIONS:
            return self._close(f"more than {MAX_OPTIONS} options")
        if length > MAX_OPTION:
            return self._too_big(option, length)
        data = bytes(self._buffer[wire.OPTION.size : wire.OPTION.size + length])
        del self._buffer[: wire.OPTION.size + length]
        return self._option(option, data)

    def _close(self, reason: str, last: bytes = b"") -> bytes:
        self.phase = Phase.CLOSED
        self.reason = reason
        self._buffer.clear()
        return last

    def _flags(self) -> bytes | None:
        if len(self._buffer) < wire.CLIENT_FLAGS.size:
            return None
        (flags,) = wire.CLIENT_FLAGS.unpack_from(self._buffer)
        del self._buffer[: wire.CLIENT_FLAGS.size]
        if flags & ~int(HANDSHAKE_FLAGS):  # ~ of an IntFlag keeps to the bits it knows
            return self._close(f"unknown client flags {flags:#x}")
        self._fixed = bool(flags & HandshakeFlag.FIXED_NEWSTYLE)
        self._zeroes = not flags & HandshakeFlag.NO_ZEROES
        self.phase = Phase.OPTIONS
        return b""

    def _too_big(self, option: int, length: int) -> bytes:
        if option == Option.EXPORT_NAME or length > MAX_SKIPPED or not self._fixed:
            return self._close(f"option {option} with {counted(length, 'byte')} of data")
        del self._buffer[: wire.OPTION.size]
        self._skip = length
        return _error(option, Reply.ERR_TOO_BIG, f"option data of {length} bytes, at most {MAX_OPTION}")

    def _option(self, option: int, data: bytes) -> bytes:
        if option == Option.EXPORT_NAME:
            return self._export_name(data)
        if not self._fixed:
            return self._close(f"option {option} from a client without fixed newstyle")
        if option == Option.ABORT:
            return self._close("client aborted", wire.reply(option, Reply.ACK))
        if option in {Option.INFO, Option.GO}:
            return self._info(option, data)
        if option == Option.LIST:
            return _error(option, Reply.ERR_INVALID, "LIST takes no data") if data else self._list()
        if option == Option.STRUCTURED_REPLY:
            if data:
                return _error(option, Reply.ERR_INVALID, "STRUCTURED_REPLY takes no data")
            self.structured = True
            return wire.reply(option, Reply.ACK)
        return _error(option, Reply.ERR_UNSUP, f"option {option} is not supported")

    def _list(self) -> bytes:
        answer = bytearray()
        for export in self._directory.offered():
            data = wire.string(export.name) + export.description.encode()
            answer += wire.reply(Option.LIST, Reply.SERVER, data)
        return bytes(answer + wire.reply(Option.LIST, Reply.ACK))

    def _flags_of(self, export: ExportInfo) -> int:
        return export.flags | (TransmissionFlag.SEND_DF if self.structured else 0)

    def _enter(self, export: ExportInfo, answer: bytes) -> bytes:
        self.phase = Phase.TRANSMISSION
        self.export = export
        return answer

    def _export_name(self, data: bytes) -> bytes:
        """EXPORT_NAME can't answer with an error: the connection is closed instead."""
        name = _decode_name(data)
        if name is None:
            return self._close("EXPORT_NAME with a malformed name")
        try:
            export = self._directory.find(name, to_connect=True)
        except Refused as refused:
            return self._close(str(refused))
        if export.block_size > DEFAULT_BLOCK_SIZE:
            return self._close(f"EXPORT_NAME {export.name!r}: the client must ask for the block size")
        answer = wire.EXPORT_NAME_REPLY.pack(export.size, self._flags_of(export))
        return self._enter(export, answer + (wire.EXPORT_NAME_ZEROES if self._zeroes else b""))

    def _info(self, option: int, data: bytes) -> bytes:
        parsed = _parse_info(data)
        if parsed is None:
            return _error(option, Reply.ERR_INVALID, "malformed data")
        name, wanted = parsed
        try:
            export = self._directory.find(name, to_connect=option == Option.GO)
        except Refused as refused:
            return _error(option, refused.reply, str(refused))
        block_size = _info_block_size(option, export)
        if export.block_size > DEFAULT_BLOCK_SIZE and Info.BLOCK_SIZE not in wanted:
            message = f"blocks are of {export.block_size} bytes: ask for NBD_INFO_BLOCK_SIZE"
            return block_size + _error(option, Reply.ERR_BLOCK_SIZE_REQD, message)
        answer = _info_reply(option, wire.INFO_EXPORT.pack(Info.EXPORT, export.size, self._flags_of(export)))
        answer += block_size
        if Info.NAME in wanted or export.name != name:
            answer += _info_reply(option, wire.INFO_TYPE.pack(Info.NAME) + export.name.encode())
        if Info.DESCRIPTION in wanted and export.description:
            answer += _info_reply(option, wire.INFO_TYPE.pack(Info.DESCRIPTION) + export.description.encode())
        answer += wire.reply(option, Reply.ACK)
        return self._enter(export, answer) if option == Option.GO else answer


def _error(option: int, kind: Reply, message: str) -> bytes:
    return wire.reply(option, kind, message.encode()[: wire.MAX_STRING].decode(errors="ignore").encode())


def _info_reply(option: int, data: bytes) -> bytes:
    return wire.reply(option, Reply.INFO, data)


def _info_block_size(option: int, export: ExportInfo) -> bytes:
    sizes = (export.block_size, export.preferred_size, export.max_payload)
    return _info_reply(option, wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, *sizes))


def _decode_name(data: bytes) -> str | None:
    if len(data) > wire.MAX_STRING:
        return None
    try:
        name = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in name else name


def _parse_info(data: bytes) -> tuple[str, frozenset[int]] | None:
    """Data of INFO and GO -> export name and the information types asked for; None when malformed."""
    if len(data) < wire.LENGTH.size + wire.COUNT.size:
        return None
    (length,) = wire.LENGTH.unpack_from(data)
    end = wire.LENGTH.size + length
    if end + wire.COUNT.size > len(data):
        return None
    name = _decode_name(data[wire.LENGTH.size : end])
    (count,) = wire.COUNT.unpack_from(data, end)
    if name is None or len(data) != end + wire.COUNT.size + 2 * count:
        return None
    return name, frozenset(struct.unpack_from(f">{count}H", data, end + wire.COUNT.size))
