"""The embedded SCSI target: what its LUNs answer, over real rings."""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.target.frontend import connected, serving
from virtiod.target.scsi import HostSpec
from virtiod.target.scsi_spec import LunSpec

MIB = 1 << 20
SIMPLE = HostSpec({0: {0: LunSpec(MIB, memory=True), 300: LunSpec(4 << 40)}, 5: {1: LunSpec(MIB, block_size=4096)}})
TEST_UNIT_READY = bytes(6)
READ_CAPACITY_10 = bytes([0x25]) + bytes(9)
READ_CAPACITY_16 = bytes([0x9E, 0x10]) + bytes(8) + struct.pack(">IBB", 32, 0, 0)
SENSE_ILLEGAL_LUN = (5, 0x25, 0)


def read_10(lba: int, blocks: int, op: int = 0x28, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", op, flags, lba, 0, blocks, 0)


def write_10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return read_10(lba, blocks, 0x2A, flags)


def cdb_16(op: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIBB", op, flags, lba, blocks, 0, 0)


def inquiry(page: int | None = None, size: int = 255) -> bytes:
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, size, 0)


@pytest.fixture
def path(run_dir: Path) -> str:
    return str(run_dir / "s")


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run


@in_loop
async def test_the_first_command_of_each_lun_meets_a_unit_attention_but_inquiry_and_report_luns_do_not(
    path: str,
) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        assert (await front.run(0, 0, inquiry(), into=255)).status == 0
        for target, lun in ((0, 0), (0, 300), (5, 1)):
            reply = await front.run(target, lun, TEST_UNIT_READY)
            assert (reply.response, reply.status, reply.what) == (0, 2, (6, 0x29, 0))
            assert (await front.run(target, lun, TEST_UNIT_READY)).status == 0


@in_loop
async def test_what_is_written_is_read_back_by_commands_of_all_lengths(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0))
        for i, (write, read) in enumerate(
            [
                (bytes([0x0A, 0, 0, 9, 2, 0]), bytes([0x08, 0, 0, 9, 2, 0])),
                (write_10(9, 2, flags=8), read_10(9, 2, flags=8)),
                (struct.pack(">BBIIBB", 0xAA, 8, 9, 2, 0, 0), struct.pack(">BBIIBB", 0xA8, 0, 9, 2, 0, 0)),
                (cdb_16(0x8A, 9, 2), cdb_16(0x88, 9, 2)),
            ]
        ):
            data = bytes([i + 1, 7]) * 512
            assert (await front.run(0, 0, write, data))[:4] == (0, 0, b"", 0)
            reply = await front.run(0, 0, read, into=1024)
            assert reply[:4] == (0, 0, b"", 0)
            assert reply.data == data
            assert reply.used == 108 + 1024


@in_loop
async def test_wrong_targets_and_absent_luns_are_told_apart(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        assert (await front.run(1, 0, inquiry(), into=255)).response == 3
        reply = await front.run(0, 1, inquiry(), into=255)
        assert (reply.status, reply.data[0], reply.residual) == (0, 0x7F, 255 - 36)
        assert (await front.run(0, 1, TEST_UNIT_READY)).what == SENSE_ILLEGAL_LUN
        assert (await front.run(5, 0, read_10(0, 1), into=4096)).what == SENSE_ILLEGAL_LUN
        luns = await front.run(5, 0, struct.pack(">BxBxxxIxx", 0xA0, 0, 512), into=512)
        assert luns.data[:16] == bytes([0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])


@in_loop
async def test_capacity_is_told_in_both_ways_also_beyond_2_tib(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0), (0, 300), (5, 1))
        assert (await front.run(0, 0, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 2047, 512)
        assert (await front.run(5, 1, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 255, 4096)
        assert (await front.run(0, 300, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 0xFFFFFFFF, 512)
        assert (await front.run(0, 300, READ_CAPACITY_16, into=32)).data[:12] == struct.pack(">QI", (1 << 33) - 1, 512)
