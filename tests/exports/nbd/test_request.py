"""How a single request is judged: tables by the protocol document."""

from __future__ import annotations

from typing import Any

import pytest

from tests.exports.nbd.service import (
    BLOCK_STATUS,
    CACHE,
    DF,
    DISC,
    EINVAL,
    ENOSPC,
    ENOTSUP,
    EOVERFLOW,
    EPERM,
    FAST_ZERO,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    REQ_ONE,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    request,
)
from virtiod.exports.nbd.request import judge
from virtiod.exports.nbd.wire import TransmissionFlag as F

SIZE = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (READ, 0, 4096, 0, 0),
        (READ, 0, 4096, FUA | DF, 0),
        (READ, SIZE - 512, 512, 0, 0),
        (READ, 0, 32 * MIB, 0, 0),
        (READ, 0, 0, 0, EINVAL),
        (READ, 0, 511, 0, EINVAL),
        (READ, 1, 512, 0, EINVAL),
        (READ, SIZE, 512, 0, EINVAL),
        (READ, SIZE - 512, 1024, 0, EINVAL),
        (READ, (1 << 64) - 512, 512, 0, EINVAL),
        (READ, (1 << 64) - 512, 1024, 0, EINVAL),
        (READ, 0, 32 * MIB + 512, 0, EOVERFLOW),
        (READ, 0, 0xFFFFFE00, 0, EOVERFLOW),
        (READ, 0, 512, NO_HOLE, EINVAL),
        (READ, 0, 512, REQ_ONE, EINVAL),
        (READ, 0, 512, 0x8000, EINVAL),
        (WRITE, 0, 4096, FUA, 0),
        (WRITE, 0, 0, 0, EINVAL),
        (WRITE, 0, 512, DF, EINVAL),
        (WRITE, 0, 513, 0, EINVAL),
        (WRITE, SIZE, 512, 0, ENOSPC),
        (WRITE, SIZE - 512, 1024, 0, ENOSPC),
        (WRITE, 0, 32 * MIB + 512, 0, EINVAL),
        (FLUSH, 0, 0, 0, 0),
        (FLUSH, 0, 0, FUA, 0),
        (FLUSH, 512, 0, 0, EINVAL),
        (FLUSH, 0, 512, 0, EINVAL),
        (TRIM, 0, SIZE, FUA, 0),
        (TRIM, 0, 0, 0, EINVAL),
        (TRIM, SIZE, 512, 0, EINVAL),
        (TRIM, 0, 512, NO_HOLE, EINVAL),
        (WRITE_ZEROES, 0, SIZE, FUA | NO_HOLE, 0),
        (WRITE_ZEROES, 0, 512, FAST_ZERO, ENOTSUP),
        (WRITE_ZEROES, SIZE, 512, 0, ENOSPC),
        (WRITE_ZEROES, 0, 512, DF, EINVAL),
        (CACHE, 0, 512, 0, EINVAL),
        (BLOCK_STATUS, 0, 512, 0, EINVAL),
        (8, 0, 512, 0, EINVAL),
        (0xFFFF, 0, 512, 0xFFFF, EINVAL),
        (DISC, 0, 0, 0, 0),
    ],
)
def test_request_is_answered_with_the_error_of_the_protocol(
    command: int, offset: int, length: int, flags: int, error: int
) -> None:
    found = judge(request(command, offset, length, flags=flags, cookie=7))
    assert found is not None
    assert found[:6] == (command, flags, offset, length, 7, error)


@pytest.mark.parametrize(
    ("command", "flags", "settings", "error"),
    [
        (WRITE, 0, {"flags": F.READ_ONLY}, EPERM),
        (TRIM, 0, {"flags": F.READ_ONLY}, EPERM),
        (WRITE_ZEROES, FAST_ZERO, {"flags": F.READ_ONLY}, EPERM),
        (READ, 0, {"flags": F.READ_ONLY}, 0),
        (FLUSH, 0, {"flags": F.READ_ONLY}, 0),
        (TRIM, 0, {"flags": F.SEND_WRITE_ZEROES}, EINVAL),
        (WRITE_ZEROES, 0, {"flags": F.SEND_TRIM}, EINVAL),
        (WRITE_ZEROES, FAST_ZERO, {"flags": F.SEND_WRITE_ZEROES}, EINVAL),
        (WRITE_ZEROES, FAST_ZERO, {"fast_zero": True}, 0),
        (READ, DF, {"structured": False}, EINVAL),
        (READ, 0, {"block_size": 4096}, 0),
        (READ, 0, {"block_size": 8192}, EINVAL),
    ],
)
def test_request_is_judged_by_what_the_export_offers(
    command: int, flags: int, settings: dict[str, Any], error: int
) -> None:
    size = 0 if command == FLUSH else 4096
    found = judge(request(command, 0, size, flags=flags), **settings)
    assert found is not None
    assert found.error == error


def test_long_read_is_einval_without_structured_replies() -> None:
    found = judge(request(READ, 0, 33 * MIB), structured=False)
    assert found is not None
    assert found.error == EINVAL


@pytest.mark.parametrize("data", [b"", request(READ)[:27], b"\x25\x60\x95\x12" + request(READ)[4:]])
def test_what_is_no_request_is_told_apart(data: bytes) -> None:
    assert judge(data) is None


@pytest.mark.parametrize(
    ("command", "length", "structured", "reply"),
    [
        (WRITE, 512, False, "67446698 00000000 0102030405060708"),
        (WRITE, 512, True, "67446698 00000000 0102030405060708"),
        (READ, 512, False, "67446698 00000000 0102030405060708"),
        (READ, 512, True, "668e33ef 0001 0001 0102030405060708 00000208 0000000000100000"),
        (WRITE, 0, False, "67446698 00000016 0102030405060708"),
        (WRITE, 0, True, "668e33ef 0001 8001 0102030405060708 00000015 00000016 000f" + b"the length is 0".hex()),
    ],
)
def test_reply_has_the_bytes_of_the_protocol(command: int, length: int, structured: bool, reply: str) -> None:
    sent = request(command, 1 << 20, length, cookie=0x0102030405060708)
    found = judge(sent, structured=structured)
    assert found is not None
    assert found.reply == bytes.fromhex(reply)
