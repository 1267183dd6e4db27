"""What the device sees of an I/O, and what the submitter hears of its answer (virtio 1.2 §5.2.6)."""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_device import (
    DISCARD,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    WRITE_ZEROES,
)
from tests.support.rig import ALL, Rig, in_loop
from virtiod.bdev.probe import Flag

KIB = 1024


def pattern(n: int, seed: int = 1) -> bytes:
    return b"".join(struct.pack("<II", seed, i) for i in range(-(-n // 8)))[:n]


@pytest.mark.parametrize("indirect", [True, False])
@in_loop
async def test_what_is_written_is_read_back_from_the_same_place(indirect: bool) -> None:
    async with Rig(size=16, indirect=indirect) as rig:
        data = pattern(12 * KIB)
        rig.probe.buffer[: len(data)] = data
        wrote = rig.submit("write", 64 * KIB, len(data), segments=[4096, 512, 7680])
        rig.settle()
        read = rig.submit("read", 64 * KIB, len(data), at=512 * KIB)
        rig.settle()
        assert (wrote.result(), read.result()) == (0, 0)
        assert rig.device.disk[64 * KIB : 76 * KIB] == data
        assert rig.probe.buffer[512 * KIB : 524 * KIB] == data
        first, second = rig.device.requests
        assert (first.type, first.sector, [n for _, n in first.out], first.into) == (OUT, 128, [4096, 512, 7680], [])
        assert (second.type, second.sector, second.out, second.length) == (IN, 128, [], len(data))
        assert first.indirect == indirect


@in_loop
async def test_sectors_are_of_512_bytes_whatever_the_block_size() -> None:
    async with Rig(block_size=4096) as rig:
        done = rig.submit("read", 8192, 4096)
        rig.settle()
        assert done.result() == 0
        assert rig.device.requests[0].sector == 16


@pytest.mark.parametrize(
    ("op", "flags", "kind", "range_flags"),
    [
        ("unmap", 0, DISCARD, 0),
        ("write_zeroes", 0, WRITE_ZEROES, 1),
        ("write_zeroes", Flag.NO_HOLE, WRITE_ZEROES, 0),
    ],
)
@in_loop
async def test_a_range_request_names_its_range(op: str, flags: int, kind: int, range_flags: int) -> None:
    async with Rig() as rig:
        done = rig.submit(op, 1024, 2048, flags)
        rig.settle()
        assert done.result() == 0
        (request,) = rig.device.requests
        assert (request.type, request.sector, request.ranges) == (kind, 0, [(2, 4, range_flags)])


# ---- splitting


@pytest.mark.parametrize(
    ("limits", "op", "length", "segments", "seen"),
    [
        ({"max_transfer": 8192}, "write", 20480, None, [[8192], [8192], [4096]]),
        ({"max_segment": 4096}, "write", 10240, None, [[4096, 4096, 2048]]),
        ({"max_segment": 4096, "max_segments": 2}, "write", 20480, None, [[4096, 4096], [4096, 4096], [4096]]),
        ({"max_segments": 2}, "read", 2048, [512] * 4, [[512, 512], [512, 512]]),
        ({"max_segments": 2}, "read", 1536, [100, 924, 512], [[100, 924], [512]]),
        ({"max_segments": 3}, "read", 1536, [100, 512, 512, 412], [[100, 512, 412], [100, 412]]),
        ({"max_segments": 1}, "read", 1024, [1024], [[1024]]),
        ({"max_segment": 700}, "read", 1024, None, [[700, 324]]),
        ({"max_segment": 700, "max_segments": 1}, "read", 1024, None, [[512], [512]]),
    ],
)
@in_loop
async def test_transfers_are_split_by_the_limits_of_the_device(
    limits: dict[str, Any], op: str, length: int, segments: list[int] | None, seen: list[list[int]]
) -> None:
    async with Rig(size=16, **limits) as rig:
        done = rig.submit(op, 4096, length, segments=segments)
        rig.settle()
        assert done.result() == 0
        assert [[n for _, n in r.out + r.into] for r in rig.device.requests] == seen
        assert rig.bdev.stats().ops[op].submitted == 1


@pytest.mark.parametrize(
    ("op", "limits", "seen"),
    [
        ("unmap", {"max_unmap": 4096}, [(8, 8, 0), (16, 8, 0), (24, 4, 0)]),
        ("write_zeroes", {"max_write_zeroes": 8192}, [(8, 16, 1), (24, 4, 1)]),
        ("write_zeroes", {"max_unmap": 4096, "max_transfer": 4096}, [(8, 20, 1)]),
    ],
)
@in_loop
async def test_ranges_are_split_by_the_limits_of_the_device(
    op: str, limits: dict[str, Any], seen: list[tuple[int, int, int]]
) -> None:
    async with Rig(size=16, **limits) as rig:
        done = rig.submit(op, 4096, 10240)
        rig.settle()
        assert done.result() == 0
        assert [r.ranges[0] for r in rig.device.requests] == seen


@in_loop
async def test_segments_that_can_not_hold_a_whole_block_are_refused() -> None:
    async with Rig(size=16, max_segments=2) as rig:
        done = rig.submit("write", 0, 1024, segments=[512, 100, 100, 312])
        rig.settle()
        assert done.result() == -errno.EINVAL
        assert [r.length for r in rig.device.requests] == [512]


def most_bytes(segments: list[int], at: int, max_segments: int, max_segment: int) -> int:
    """How many bytes from `at` on the first max_segments segments of a request hold."""
    held = 0
    for length in segments:
        skipped = min(at, length)
        at -= skipped
        left = length - skipped
        while left and max_segments:
            held += min(left, max_segment)
            left -= min(left, max_segment)
            max_segments -= 1
    return held


@settings(deadline=None, max_examples=60)
@given(
    segments=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    max_segments=st.integers(1, 6),
    max_segment=st.integers(512, 5000),
    max_transfer=st.integers(1, 8).map(lambda n: n * 512),
    block_size=st.sampled_from([512, 1024]),
    indirect=st.booleans(),
)
def test_pieces_cover_an_io_once_in_whole_blocks_within_all_limits(
    segments: list[int], max_segments: int, max_segment: int, max_transfer: int, block_size: int, indirect: bool
) -> None:
    total = sum(segments)
    segments = [*segments, block_size - total % block_size] if total % block_size else segments
    length = sum(segments)
    max_transfer = max(max_transfer, block_size)

    @in_loop
    async def check() -> None:
        async with Rig(
            size=8,
            indirect=indirect,
            block_size=block_size,
            max_segments=max_segments,
            max_segment=max_segment,
            max_transfer=max_transfer,
        ) as rig:
            data = pattern(length, 7)
            rig.probe.buffer[:length] = data
            done = rig.submit("write", 8192, length, segments=segments)
            rig.settle()
            requests = rig.device.requests
            assert all(len(r.out) <= max_segments for r in requests)
            assert all(0 < n <= max_segment for r in requests for _, n in r.out)
            assert all(0 < r.length <= max_transfer and r.length % block_size == 0 for r in requests)
            at = 8192
            for r in requests:
                assert r.sector * 512 == at
                at += r.length
            if done.result() == 0:
                assert at == 8192 + length
                assert rig.device.disk[8192 : 8192 + length] == data
            else:  # no way to put a whole block into that few segments
                assert done.result() == -errno.EINVAL
                assert most_bytes(segments, at - 8192, max_segments, max_segment) < block_size

    check()


# ---- what the device has no command for


@in_loop
async def test_write_zeroes_becomes_a_write_of_zeroes_when_the_device_has_none() -> None:
    async with Rig(size=16, native=ALL - {"write_zeroes"}, max_transfer=256 * KIB) as rig:
        rig.device.disk[:] = b"\xff" * len(rig.device.disk)
        rig.probe.buffer[:] = b"\xee" * rig.probe.size
        done = rig.submit("write_zeroes", 4096, 300 * KIB, segments=[])
        rig.settle()
        assert done.result() == 0
        assert {r.type for r in rig.device.requests} == {OUT}
        assert [r.length for r in rig.device.requests] == [256 * KIB, 44 * KIB]
        disk = rig.device.disk
        assert disk[4096 : 304 * KIB] == bytes(300 * KIB)
        assert disk[4095] == 0xFF
        assert disk[304 * KIB] == 0xFF


@in_loop
async def test_write_zeroes_writes_zeroes_whatever_memory_the_io_names() -> None:
    async with Rig(size=16, native=ALL - {"write_zeroes"}) as rig:
        rig.device.disk[:] = b"\xff" * len(rig.device.disk)
        rig.probe.buffer[:] = b"\xee" * rig.probe.size
        done = rig.submit("write_zeroes", 4096, 8192, segments=[8192])
        rig.settle()
        assert done.result() == 0
        assert rig.device.disk[4096:12288] == bytes(8192)


@in_loop
async def test_a_flush_without_the_feature_succeeds_unseen_by_the_device() -> None:
    async with Rig(native=ALL - {"flush"}) as rig:
        done = rig.submit("flush", 0, 0)
        assert rig.settle() == 0
        assert done.result() == 0


# ---- durability


@pytest.mark.parametrize("op", ["write", "write_zeroes"])
@in_loop
async def test_fua_is_a_write_and_then_a_flush(op: str) -> None:
    async with Rig(write_cache=True, max_transfer=4096, max_write_zeroes=4096) as rig:
        done = rig.submit(op, 0, 8192, Flag.FUA)
        rig.turn()
        writes = rig.device.take()
        assert len(writes) == 2
        rig.device.complete(writes[1])
        rig.turn(2)
        assert not rig.device.take(), "flushed before all was written"
        rig.device.complete(writes[0])
        rig.turn(2)
        (flush,) = rig.device.take()
        assert flush.type == FLUSH
        assert not done.done()
        rig.device.complete(flush)
        rig.turn(2)
        assert done.result() == 0
        assert rig.bdev.stats().ops["flush"].submitted == 0


@in_loop
async def test_fua_needs_no_flush_without_a_write_cache() -> None:
    async with Rig(write_cache=False) as rig:
        done = rig.submit("write", 0, 4096, Flag.FUA)
        assert rig.settle() == 1
        assert done.result() == 0


@in_loop
async def test_a_fua_write_that_failed_is_not_flushed() -> None:
    async with Rig(write_cache=True) as rig:
        done = rig.submit("write", 0, 4096, Flag.FUA)
        assert rig.settle(lambda _: IOERR) == 1
        assert done.result() == -errno.EIO


@in_loop
async def test_a_fua_write_fails_with_its_flush() -> None:
    async with Rig(write_cache=True) as rig:
        done = rig.submit("write", 0, 4096, Flag.FUA)
        assert rig.settle(lambda r: IOERR if r.type == FLUSH else OK) == 2
        assert done.result() == -errno.EIO


@in_loop
async def test_the_flush_of_a_fua_write_waits_for_room_behind_earlier_io() -> None:
    async with Rig(size=4, write_cache=True) as rig:
        done = [rig.submit("write", 4096 * i, 4096, Flag.FUA) for i in range(12)]
        rig.settle()
        assert [d.result() for d in done] == [0] * 12
        assert sorted(r.type for r in rig.device.requests) == [OUT] * 12 + [FLUSH] * 12


# ---- answers


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (OK, 0),
        (IOERR, -errno.EIO),
        (UNSUPP, -errno.EOPNOTSUPP),
        (None, -errno.EIO),  # the byte was never written
        (0xFF, -errno.EIO),
        (3, -errno.EIO),
        (0x80, -errno.EIO),
    ],
)
@in_loop
async def test_the_status_byte_becomes_an_errno(status: int | None, result: int) -> None:
    async with Rig() as rig:
        done = rig.submit("read", 0, 512)
        rig.settle(lambda _: status)
        assert done.result() == result
        stats = rig.bdev.stats()
        name = {0: {}, -errno.EIO: {"io": 1}, -errno.EOPNOTSUPP: {"unsupported": 1}}[result]
        assert stats.ops["read"].failures == name
        assert stats.ops["read"].bytes == (512 if result == 0 else 0)


@in_loop
async def test_one_failed_piece_fails_the_io_once_all_pieces_are_back() -> None:
    async with Rig(max_transfer=512) as rig:
        done = rig.submit("read", 0, 2048)
        rig.turn()
        first, *others = rig.device.take()
        rig.device.complete(first, IOERR)
        rig.turn(2)
        assert not done.done()
        for r in others:
            rig.device.complete(r)
        rig.turn(2)
        assert done.result() == -errno.EIO


@in_loop
async def test_pieces_that_still_wait_are_not_sent_after_one_failed() -> None:
    async with Rig(size=4, max_transfer=512) as rig:
        done = rig.submit("read", 0, 512 * 20)
        assert rig.settle(lambda _: IOERR) == 3
        assert done.result() == -errno.EIO


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (b"disk 7", "disk 7"),
        (b"x" * 20, "x" * 20),
        (b"", ""),
        (b" padded  ", "padded"),
        (b"a\0b", "a"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
@in_loop
async def test_get_id_asks_for_20_bytes_and_gives_the_text_before_the_first_zero(told: bytes, text: str) -> None:
    async with Rig() as rig:
        rig.device.serial = told.ljust(20, b"\0")
        assert await rig.do(rig.queue.get_id(), serve=True) == text
        (request,) = rig.device.requests
        assert (request.type, [n for _, n in request.into]) == (GET_ID, [20])


@in_loop
async def test_a_device_without_get_id_has_no_serial() -> None:
    async with Rig() as rig:
        asked = asyncio.ensure_future(rig.queue.get_id())
        await asyncio.sleep(0)
        rig.settle(lambda _: UNSUPP)
        assert await asked == ""


@pytest.mark.parametrize(
    ("op", "offset", "length", "info", "result", "name"),
    [
        ("read", 100, 512, {}, errno.EINVAL, "invalid"),
        ("read", 0, 100, {}, errno.EINVAL, "invalid"),
        ("read", 512, 512, {"block_size": 4096}, errno.EINVAL, "invalid"),
        ("write", 0, 0, {}, errno.EINVAL, "invalid"),
        ("read", 4 << 20, 512, {}, errno.ENOSPC, "nospace"),
        ("write", (4 << 20) - 512, 1024, {}, errno.ENOSPC, "nospace"),
        ("unmap", (1 << 64) - 512, 1024, {}, errno.ENOSPC, "nospace"),
        ("write_zeroes", 512, (1 << 64) - 512, {}, errno.ENOSPC, "nospace"),
        ("write", 0, 512, {"read_only": True}, errno.EPERM, "readonly"),
        ("unmap", 0, 512, {"read_only": True}, errno.EPERM, "readonly"),
        ("unmap", 0, 512, {"io_types": frozenset({"read", "write"})}, errno.EOPNOTSUPP, "unsupported"),
    ],
)
@in_loop
async def test_what_can_not_be_is_refused_and_the_device_never_sees_it(
    op: str, offset: int, length: int, info: dict[str, Any], result: int, name: str
) -> None:
    async with Rig(**info) as rig:
        done = rig.submit(op, offset, length)
        assert rig.settle() == 0
        assert done.result() == -result
        stats = rig.bdev.stats()
        assert stats.ops[op].failures == {name: 1}
        assert (stats.ops[op].submitted, stats.ops[op].failed, stats.ops[op].bytes) == (1, 1, 0)


@in_loop
async def test_a_closed_bdev_refuses_io() -> None:
    async with Rig() as rig:
        rig.channels.close()
        done = [rig.submit(op, 0, 512) for op in sorted(ALL)]
        assert rig.settle() == 0
        assert {d.result() for d in done} == {-errno.ENODEV}


@in_loop
async def test_a_resize_holds_for_the_next_io() -> None:
    async with Rig(capacity=1 << 20) as rig:
        rig.device.disk += bytes(1 << 20)
        rig.channels.resize(2 << 20)
        grown = rig.submit("read", 1 << 20, 4096)
        rig.settle()
        rig.channels.resize(4096)
        shrunk = rig.submit("read", 4096, 4096)
        rig.settle()
        assert (grown.result(), shrunk.result()) == (0, -errno.ENOSPC)
