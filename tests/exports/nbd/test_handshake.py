"""What the negotiation answers: tables of client bytes against reply types, by the NBD protocol document."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace

import pytest

from virtiod.exports.nbd import wire
from virtiod.exports.nbd.export import transmission_flags
from virtiod.exports.nbd.handshake import (
    MAX_OPTION,
    MAX_OPTIONS,
    MAX_SKIPPED,
    ExportInfo,
    Handshake,
    Phase,
    Refused,
)
from virtiod.exports.nbd.wire import Info, Option, Reply
from virtiod.exports.nbd.wire import TransmissionFlag as F

ALL_TYPES = {"read", "write", "flush", "unmap", "write_zeroes"}
DISK = ExportInfo("disk", "a disk", 1 << 30, transmission_flags(ALL_TYPES, False), 512, 4096, 32 << 20)
BIG = replace(DISK, name="big", description="", block_size=4096)


class Shelf:
    """A directory of fixed exports."""

    def __init__(self, *exports: ExportInfo, refuse: Refused | None = None) -> None:
        self.exports = {export.name: export for export in exports}
        self.refuse = refuse

    def offered(self) -> Iterable[ExportInfo]:
        return self.exports.values()

    def find(self, name: str, *, to_connect: bool) -> ExportInfo:
        if self.refuse and to_connect:
            raise self.refuse
        if not name:
            return DISK
        if name not in self.exports:
            raise Refused(Reply.ERR_UNKNOWN, f"no export {name!r}")
        return self.exports[name]


def option(number: int, data: bytes = b"", magic: int = wire.OPTION_MAGIC) -> bytes:
    return struct.pack(">QII", magic, number, len(data)) + data


def info(number: int, name: str | bytes, *wanted: int) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return option(number, struct.pack(f">I{len(raw)}sH{len(wanted)}H", len(raw), raw, len(wanted), *wanted))


def talk(data: bytes, shelf: Shelf | None = None, flags: int = 3) -> tuple[Handshake, bytes]:
    handshake = Handshake(shelf or Shelf(DISK, BIG))
    handshake.feed(struct.pack(">I", flags) + data)
    answer = b""
    while (part := handshake.next_reply()) is not None:
        answer += part
    return handshake, answer


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """[(option, type, data)] of all of `data`."""
    found = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def kinds(data: bytes) -> list[int]:
    return [kind for _, kind, _ in replies(data)]


def test_greeting_offers_fixed_newstyle_without_zeroes() -> None:
    assert Handshake.greeting() == b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (option(Option.ABORT), [Reply.ACK]),
        (option(Option.ABORT, b"ignored"), [Reply.ACK]),
        (option(Option.LIST), [Reply.SERVER, Reply.SERVER, Reply.ACK]),
        (option(Option.LIST, b"x"), [Reply.ERR_INVALID]),
        (option(Option.STRUCTURED_REPLY), [Reply.ACK]),
        (option(Option.STRUCTURED_REPLY, b"x"), [Reply.ERR_INVALID]),
        (option(Option.STARTTLS), [Reply.ERR_UNSUP]),
        (option(Option.LIST_META_CONTEXT, b"x" * 30), [Reply.ERR_UNSUP]),
        (option(11), [Reply.ERR_UNSUP]),
        (option(0), [Reply.ERR_UNSUP]),
        (option(0xFFFFFFFF, b"x" * MAX_OPTION), [Reply.ERR_UNSUP]),
        (option(Option.LIST, b"x" * (MAX_OPTION + 1)), [Reply.ERR_TOO_BIG]),
        (option(Option.GO, b"x" * MAX_SKIPPED), [Reply.ERR_TOO_BIG]),
        (info(Option.INFO, "disk"), [Reply.INFO, Reply.INFO, Reply.ACK]),
        (info(Option.GO, "disk"), [Reply.INFO, Reply.INFO, Reply.ACK]),
        (info(Option.GO, "disk", 99, 77), [Reply.INFO, Reply.INFO, Reply.ACK]),
        (info(Option.INFO, "disk", Info.NAME, Info.DESCRIPTION), [Reply.INFO] * 4 + [Reply.ACK]),
        (info(Option.INFO, ""), [Reply.INFO] * 3 + [Reply.ACK]),
        (info(Option.INFO, "none"), [Reply.ERR_UNKNOWN]),
        (info(Option.GO, "none"), [Reply.ERR_UNKNOWN]),
        (info(Option.GO, "big"), [Reply.INFO, Reply.ERR_BLOCK_SIZE_REQD]),
        (info(Option.INFO, "big"), [Reply.INFO, Reply.ERR_BLOCK_SIZE_REQD]),
        (info(Option.GO, "big", Info.BLOCK_SIZE), [Reply.INFO, Reply.INFO, Reply.ACK]),
        (info(Option.GO, b"\xff\xfe"), [Reply.ERR_INVALID]),
        (info(Option.GO, "a\0b"), [Reply.ERR_INVALID]),
        (info(Option.GO, "x" * 4096), [Reply.ERR_UNKNOWN]),
        (info(Option.GO, "x" * 4097), [Reply.ERR_INVALID]),
        (option(Option.GO), [Reply.ERR_INVALID]),
        (option(Option.GO, b"\0\0\0\4disk"), [Reply.ERR_INVALID]),
        (option(Option.GO, b"\0\0\0\5disk\0\0"), [Reply.ERR_INVALID]),
        (option(Option.GO, b"\xff\xff\xff\xffdisk\0\0"), [Reply.ERR_INVALID]),
        (option(Option.GO, b"\0\0\0\4disk\0\1"), [Reply.ERR_INVALID]),
        (option(Option.GO, b"\0\0\0\4disk\0\0\0"), [Reply.ERR_INVALID]),
    ],
)
def test_option_is_answered_as_the_protocol_says(sent: bytes, expected: list[Reply]) -> None:
    handshake, answer = talk(sent)
    assert kinds(answer) == expected
    assert all(number == struct.unpack_from(">I", sent, 8)[0] for number, _, _ in replies(answer))
    one_by_one = Handshake(Shelf(DISK, BIG))
    again = b""
    for byte in struct.pack(">I", 3) + sent:
        one_by_one.feed(bytes([byte]))
        while (part := one_by_one.next_reply()) is not None:
            again += part
    assert (again, one_by_one.phase) == (answer, handshake.phase)


@pytest.mark.parametrize(
    ("sent", "flags"),
    [
        (b"", 4),
        (b"", 0xFFFFFFFF),
        (option(Option.LIST, magic=1), 3),
        (option(Option.EXPORT_NAME, b"none"), 3),
        (option(Option.EXPORT_NAME, b"big"), 3),
        (option(Option.EXPORT_NAME, b"\xff"), 3),
        (option(Option.EXPORT_NAME, b"x" * 4097), 3),
        (option(Option.EXPORT_NAME, b"x" * (MAX_OPTION + 1)), 3),
        (option(Option.LIST), 0),
        (info(Option.GO, "disk"), 2),
        (struct.pack(">QII", wire.OPTION_MAGIC, Option.LIST, MAX_SKIPPED + 1), 3),
        (struct.pack(">QII", wire.OPTION_MAGIC, Option.LIST, 0xFFFFFFFF), 3),
    ],
)
def test_client_beyond_an_answer_is_closed(sent: bytes, flags: int) -> None:
    handshake, answer = talk(sent, flags=flags)
    assert (handshake.phase, answer) == (Phase.CLOSED, b"")
    assert handshake.reason


def test_endless_options_are_ended() -> None:
    handshake, answer = talk(option(Option.STRUCTURED_REPLY) * (MAX_OPTIONS + 1))
    assert handshake.phase is Phase.CLOSED
    assert len(replies(answer)) == MAX_OPTIONS


def test_list_carries_names_and_descriptions() -> None:
    _, answer = talk(option(Option.LIST))
    assert replies(answer)[0][2] == b"\0\0\0\4disk" + b"a disk"
    assert replies(answer)[1][2] == b"\0\0\0\3big"


def test_go_tells_size_flags_and_block_sizes_and_keeps_what_follows() -> None:
    sent = option(Option.STRUCTURED_REPLY) + info(Option.GO, "", Info.DESCRIPTION) + b"early request"
    handshake, answer = talk(sent)
    told = {data[:2]: data[2:] for _, kind, data in replies(answer) if kind == Reply.INFO}
    assert told == {
        b"\0\0": struct.pack(">QH", 1 << 30, DISK.flags | F.SEND_DF),
        b"\0\1": b"disk",
        b"\0\2": b"a disk",
        b"\0\3": struct.pack(">III", 512, 4096, 32 << 20),
    }
    assert handshake.phase is Phase.TRANSMISSION
    assert (handshake.export, handshake.structured, handshake.leftover) == (DISK, True, b"early request")


def test_info_does_not_start_transmission() -> None:
    handshake, _ = talk(info(Option.INFO, "disk"))
    assert (handshake.phase, handshake.export) == (Phase.OPTIONS, None)


@pytest.mark.parametrize(("flags", "zeroes"), [(0, 124), (1, 124), (2, 0), (3, 0)])
def test_export_name_is_padded_unless_no_zeroes(flags: int, zeroes: int) -> None:
    handshake, answer = talk(option(Option.EXPORT_NAME, b"disk"), flags=flags)
    assert answer == struct.pack(">QH", 1 << 30, DISK.flags) + bytes(zeroes)
    assert (handshake.phase, handshake.structured) == (Phase.TRANSMISSION, False)


@pytest.mark.parametrize("reason", [Reply.ERR_POLICY, Reply.ERR_SHUTDOWN])
def test_refusal_reaches_the_client_with_its_message(reason: Reply) -> None:
    shelf = Shelf(DISK, refuse=Refused(reason, "no place left"))
    handshake, answer = talk(info(Option.GO, "disk"), shelf)
    assert replies(answer) == [(Option.GO, reason, b"no place left")]
    assert handshake.phase is Phase.OPTIONS


def test_long_error_message_stays_whole_utf8_within_the_limit() -> None:
    _, answer = talk(info(Option.GO, "ä" * 2048))
    ((_, _, message),) = replies(answer)
    assert len(message) <= wire.MAX_STRING
    message.decode()


@pytest.mark.parametrize(
    ("io_types", "read_only", "flags"),
    [
        (ALL_TYPES, False, F(0b1001_0110_1101) | F.CAN_MULTI_CONN),
        ({"read", "write"}, False, F.HAS_FLAGS | F.SEND_FLUSH | F.SEND_FUA | F.CAN_MULTI_CONN),
        (ALL_TYPES, True, F.HAS_FLAGS | F.READ_ONLY | F.SEND_FLUSH | F.SEND_FUA | F.CAN_MULTI_CONN),
    ],
)
def test_transmission_flags_tell_what_the_bdev_can(io_types: set[str], read_only: bool, flags: int) -> None:
    assert transmission_flags(io_types, read_only) == flags
