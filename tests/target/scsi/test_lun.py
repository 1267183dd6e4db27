"""The embedded SCSI target: what its LUNs answer, over real rings."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.peers import requires
from tests.support.rig import in_loop
from tests.target.scsi.frontend import connected, serving
from virtiod.core.errors import DeviceError, NotSupported
from virtiod.scsi import parse
from virtiod.scsi.address import pack_listed
from virtiod.scsi.spec import Asc, CdbFlag, ModeFlag, ModePage, Opcode, SenseKey, ServiceAction, Status, VpdPage
from virtiod.target.scsi.device import CAPACITY_CHANGED, HostSpec
from virtiod.target.scsi.luns import LunSpec
from virtiod.virtio.scsi import EventType, Response

MIB = 1 << 20
SIMPLE = HostSpec({0: {0: LunSpec(MIB, memory=True), 300: LunSpec(4 << 40)}, 5: {1: LunSpec(MIB, block_size=4096)}})
MODE_SENSE_6 = bytes([Opcode.MODE_SENSE_6, CdbFlag.DBD, ModePage.CACHING, 0, 64, 0])
MODE_SENSE_10 = bytes([Opcode.MODE_SENSE_10, CdbFlag.DBD, ModePage.CACHING, 0, 0, 0, 0, 0, 64, 0])
TEST_UNIT_READY = bytes([Opcode.TEST_UNIT_READY, 0, 0, 0, 0, 0])
READ_CAPACITY_10 = bytes([Opcode.READ_CAPACITY_10]) + bytes(9)
READ_CAPACITY_16 = struct.pack(">BB8xIxx", Opcode.SERVICE_ACTION_IN_16, ServiceAction.READ_CAPACITY_16, 32)
SENSE_ILLEGAL_LUN = (SenseKey.ILLEGAL_REQUEST, Asc.LUN_NOT_SUPPORTED)


def read_10(lba: int, blocks: int, op: int = Opcode.READ_10, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", op, flags, lba, 0, blocks, 0)


def write_10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return read_10(lba, blocks, Opcode.WRITE_10, flags)


def cdb_16(op: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIBB", op, flags, lba, blocks, 0, 0)


def inquiry(page: int | None = None, size: int = 255) -> bytes:
    return struct.pack(">BBBHB", Opcode.INQUIRY, page is not None, page or 0, size, 0)


def decode(command: list[str], data: bytes = b"") -> str:
    """What a program of sg3-utils says to data in hexadecimal."""
    requires(command[0])
    done = subprocess.run(command, input=data.hex(" "), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@in_loop
async def test_the_first_command_of_each_lun_meets_a_unit_attention_but_inquiry_and_report_luns_do_not(
    path: str,
) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        assert (await front.run(0, 0, inquiry(), into=255)).status == 0
        for target, lun in ((0, 0), (0, 300), (5, 1)):
            reply = await front.run(target, lun, TEST_UNIT_READY)
            assert (reply.response, reply.status) == (Response.OK, Status.CHECK_CONDITION)
            assert reply.what == (SenseKey.UNIT_ATTENTION, Asc.POWER_ON_OR_RESET)
            assert (await front.run(target, lun, TEST_UNIT_READY)).status == 0


@in_loop
async def test_what_is_written_is_read_back_by_commands_of_all_lengths(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0))
        for i, (write, read) in enumerate(
            [
                (bytes([Opcode.WRITE_6, 0, 0, 9, 2, 0]), bytes([Opcode.READ_6, 0, 0, 9, 2, 0])),
                (write_10(9, 2, flags=CdbFlag.FUA), read_10(9, 2, flags=CdbFlag.FUA)),
                (
                    struct.pack(">BBIIBB", Opcode.WRITE_12, 8, 9, 2, 0, 0),
                    struct.pack(">BBIIBB", Opcode.READ_12, 0, 9, 2, 0, 0),
                ),
                (cdb_16(Opcode.WRITE_16, 9, 2), cdb_16(Opcode.READ_16, 9, 2)),
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
        assert (await front.run(1, 0, inquiry(), into=255)).response == Response.BAD_TARGET
        reply = await front.run(0, 1, inquiry(), into=255)
        assert (reply.status, reply.data[0], reply.residual) == (0, 0x7F, 255 - 36)
        assert (await front.run(0, 1, TEST_UNIT_READY)).what == SENSE_ILLEGAL_LUN
        assert (await front.run(5, 0, read_10(0, 1), into=4096)).what == SENSE_ILLEGAL_LUN
        luns = await front.run(5, 0, struct.pack(">BxBxxxIxx", Opcode.REPORT_LUNS, 0, 512), into=512)
        assert luns.data[:16] == bytes([0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])


@in_loop
async def test_capacity_is_told_in_both_ways_also_beyond_2_tib(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0), (0, 300), (5, 1))
        assert (await front.run(0, 0, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 2047, 512)
        assert (await front.run(5, 1, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 255, 4096)
        assert (await front.run(0, 300, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 0xFFFFFFFF, 512)
        assert (await front.run(0, 300, READ_CAPACITY_16, into=32)).data[:12] == struct.pack(">QI", (1 << 33) - 1, 512)


@in_loop
async def test_modes_say_write_cache_and_write_protection_and_saved_pages_are_refused(path: str) -> None:
    spec = HostSpec({0: {0: LunSpec(MIB), 1: LunSpec(MIB, read_only=True, write_cache=False)}})
    async with serving(path, spec), connected(path) as front:
        await front.ready((0, 0), (0, 1))
        cached = (await front.run(0, 0, MODE_SENSE_6, into=64)).data
        assert (cached[0], cached[2], cached[4] & 0x3F) == (23, ModeFlag.DPOFUA, ModePage.CACHING)
        assert cached[6] & ModeFlag.WCE
        plain = (
            await front.run(
                0, 1, bytes([Opcode.MODE_SENSE_10, CdbFlag.DBD, ModePage.ALL_PAGES, 0, 0, 0, 0, 0, 64, 0]), into=64
            )
        ).data
        assert (plain[1], plain[3], plain[8] & 0x3F) == (26, ModeFlag.WP | ModeFlag.DPOFUA, ModePage.CACHING)
        assert not plain[10] & ModeFlag.WCE
        saved = await front.run(
            0, 0, bytes([Opcode.MODE_SENSE_6, CdbFlag.DBD, 3 << 6 | ModePage.CACHING, 0, 64, 0]), into=64
        )
        assert saved.what == (SenseKey.ILLEGAL_REQUEST, Asc.SAVING_NOT_SUPPORTED)
        assert (await front.run(0, 1, write_10(0, 1), bytes(512))).what == (SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)


@in_loop
async def test_commands_that_can_not_be_are_refused_with_their_sense(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0))
        for cdb, out, into, what in (
            (read_10(2048, 1), b"", 512, (SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)),
            (write_10(2047, 2), bytes(1024), 0, (SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)),
            (cdb_16(Opcode.READ_16, (1 << 64) - 1, 1), b"", 512, (SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)),
            (cdb_16(Opcode.READ_16, 0, 0xFFFFFFFF), b"", 512, (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)),
            (read_10(0, 1, flags=0x20), b"", 512, (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)),
            (inquiry(0x99), b"", 255, (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)),
            (cdb_16(Opcode.WRITE_SAME_16, 0, 0), bytes(512), 0, (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB)),
            (bytes([0xFE]), b"", 0, (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPCODE)),
            (
                bytes([Opcode.UNMAP, 0, 0, 0, 0, 0, 0, 0, 4, 0]),
                bytes(4),
                0,
                (SenseKey.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH_ERROR),
            ),
        ):
            reply = await front.run(0, 0, cdb, out, into)
            assert (reply.response, reply.status, reply.what) == (0, 2, what), cdb.hex()
            assert reply.residual == len(out) + into


@in_loop
async def test_buffers_that_are_too_small_are_overruns_and_what_is_left_is_residual(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0))
        assert (await front.run(0, 0, read_10(0, 2), into=1023)).response == 1
        assert (await front.run(0, 0, write_10(0, 2), bytes(512))).response == 1
        assert (await front.run(0, 0, inquiry(), into=36)).response == 1
        reply = await front.run(0, 0, read_10(0, 1), into=1024)
        assert (reply.response, reply.residual, reply.used) == (0, 512, 108 + 512)


@in_loop
async def test_unmap_and_write_same_zero_what_they_name_and_nothing_else(path: str) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        await front.ready((0, 0))
        await front.run(0, 0, write_10(0, 16), b"\x55" * 8192)
        ranges = struct.pack(">HH4xQI4xQI4x", 38, 32, 1, 2, 5, 1)
        assert (await front.run(0, 0, struct.pack(">BxxxxxxHx", Opcode.UNMAP, 40), ranges)).status == 0
        assert (
            await front.run(0, 0, cdb_16(Opcode.WRITE_SAME_16, 8, 2, flags=CdbFlag.MAY_UNMAP), bytes(512))
        ).status == 0
        assert (await front.run(0, 0, cdb_16(Opcode.WRITE_SAME_16, 11, 1, flags=CdbFlag.NDOB))).status == 0
        assert (await front.run(0, 0, read_10(13, 2, op=Opcode.WRITE_SAME_10), b"\x66" * 512)).status == 0
        data = (await front.run(0, 0, read_10(0, 16), into=8192)).data
        assert [data[i * 512] for i in range(16)] == [
            {1: 0, 2: 0, 5: 0, 8: 0, 9: 0, 11: 0, 13: 0x66, 14: 0x66}.get(i, 0x55) for i in range(16)
        ]
        for cdb in (read_10(0, 0, op=Opcode.SYNCHRONIZE_CACHE_10), cdb_16(Opcode.SYNCHRONIZE_CACHE_16, 0, 16)):
            assert (await front.run(0, 0, cdb))[:2] == (0, 0)


@in_loop
async def test_unmaps_beyond_the_limits_of_blocks_or_descriptors_are_refused(path: str) -> None:
    spec = HostSpec({0: {0: LunSpec(MIB, max_unmap=8, max_descriptors=2)}})
    async with serving(path, spec), connected(path) as front:
        await front.ready((0, 0))
        for ranges, sense in (
            ([(0, 8)], b""),
            ([(0, 4), (100, 4)], b""),
            ([(0, 9)], (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)),
            ([(0, 4), (100, 5)], (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)),
            ([(0, 1), (2, 1), (4, 1)], (SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST)),
            ([(2047, 2)], (SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE)),
        ):
            n = 16 * len(ranges)
            data = struct.pack(">HH4x", 6 + n, n) + b"".join(struct.pack(">QI4x", *r) for r in ranges)
            reply = await front.run(0, 0, struct.pack(">BxxxxxxHx", Opcode.UNMAP, 8 + n), data)
            assert (reply.what if reply.status else reply.sense) == sense, ranges


@in_loop
async def test_a_stopped_unit_is_not_ready_until_it_is_started(path: str) -> None:
    async with serving(path, HostSpec({0: {0: LunSpec(MIB, stopped=True)}})), connected(path) as front:
        await front.ready((0, 0))
        assert (await front.run(0, 0, TEST_UNIT_READY)).what == (SenseKey.NOT_READY, Asc.INITIALIZING_COMMAND_REQUIRED)
        assert (await front.run(0, 0, read_10(0, 1), into=512)).what == (
            SenseKey.NOT_READY,
            Asc.INITIALIZING_COMMAND_REQUIRED,
        )
        assert (await front.run(0, 0, bytes([Opcode.START_STOP_UNIT, 0, 0, 0, 1, 0]))).status == 0
        assert (await front.run(0, 0, TEST_UNIT_READY)).status == 0


@in_loop
async def test_a_file_lun_keeps_its_data_and_grows_with_its_file(path: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8192))
    async with serving(path, HostSpec({2: {300: LunSpec(path=str(disk))}})) as device, connected(path) as front:
        await front.ready((2, 300))
        assert (await front.run(2, 300, write_10(3, 1, flags=CdbFlag.FUA), b"f" * 512)).status == 0
        assert disk.read_bytes()[1536:2048] == b"f" * 512
        offered = front.offer_event()
        with disk.open("ab") as file:
            file.write(bytes(4096))
        await device.resize_files()
        assert await front.event(offered) == (EventType.PARAM_CHANGE, pack_listed(2, 300), CAPACITY_CHANGED)
        assert (await front.run(2, 300, READ_CAPACITY_10, into=8)).what == (
            SenseKey.UNIT_ATTENTION,
            Asc.CAPACITY_CHANGED,
        )
        assert (await front.run(2, 300, READ_CAPACITY_10, into=8)).data == struct.pack(">II", 23, 512)


@in_loop
async def test_sizes_of_cdb_and_sense_data_are_those_that_the_driver_set(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path, SIMPLE), connected(path) as front:
        config = await front.transport.read_config(0, 36)
        assert struct.unpack("<7IHHI", config) == (1, 126, 0xFFFF, 128, 16, 96, 32, 0, 255, 16383)
        await front.set_config(20, struct.pack("<I", 18))
        await front.set_config(24, struct.pack("<I", 16))
        front.sense_size, front.cdb_size = 18, 16
        assert (await front.run(0, 0, TEST_UNIT_READY))[:2] == (0, 2)
        reply = await front.run(0, 0, inquiry(), into=255)
        assert (reply.response, reply.used) == (0, 30 + 96)
        with pytest.raises(DeviceError):
            await front.set_config(24, struct.pack("<I", 4096))
    caplog.clear()  # the refusal, whose traceback holds the pollers


@in_loop
async def test_a_host_without_a_configuration_refuses_to_read_it(path: str) -> None:
    async with serving(path, HostSpec({0: {0: LunSpec(MIB)}}, config=False)), connected(path) as front:
        with pytest.raises(NotSupported):
            await front.transport.read_config(0, 36)
        assert (await front.run(0, 0, inquiry(), into=255)).status == 0


SG = [
    (["sg_inq"], inquiry(), ["VIRTIOD", "TARGET", "0001", "SPC-4", "disk"]),
    (
        ["sg_vpd", "--page=sv"],
        inquiry(VpdPage.SUPPORTED_PAGES),
        ["Unit serial number", "Block limits", "Logical block provisioning"],
    ),
    (["sg_vpd", "--page=sn"], inquiry(VpdPage.UNIT_SERIAL_NUMBER), ["Unit serial number: abc-1"]),
    (["sg_vpd", "--page=di"], inquiry(VpdPage.DEVICE_IDENTIFICATION), ["NAA", "T10 vendor identification", "abc-1"]),
    (
        ["sg_vpd", "--page=bl"],
        inquiry(VpdPage.BLOCK_LIMITS),
        ["Maximum unmap LBA count: 4194304", "Maximum write same length: 0x10000"],
    ),
    (["sg_vpd", "--page=bdc"], inquiry(VpdPage.BLOCK_DEVICE_CHARACTERISTICS), ["Non-rotating medium"]),
    (["sg_vpd", "--page=lbpv"], inquiry(VpdPage.LOGICAL_BLOCK_PROVISIONING), ["(LBPU): 1", "(LBPWS): 1", "thin"]),
]


@pytest.mark.programs
@pytest.mark.parametrize(("command", "cdb", "words"), SG)
@in_loop
async def test_sg3_utils_decode_what_a_lun_says(path: str, command: list[str], cdb: bytes, words: list[str]) -> None:
    spec = HostSpec({0: {0: LunSpec(MIB, serial="abc-1")}})
    async with serving(path, spec), connected(path) as front:
        reply = await front.run(0, 0, cdb, into=255)
        assert (reply.response, reply.status) == (0, 0)
        text = decode([*command, "--inhex=-"], reply.data[: 255 - reply.residual])
        assert all(word.lower() in text.lower() for word in words), text


@pytest.mark.programs
@in_loop
async def test_sdparm_decodes_the_caching_page(path: str) -> None:
    spec = HostSpec({0: {n: LunSpec(MIB, write_cache=bool(n)) for n in (0, 1)}})
    async with serving(path, spec), connected(path) as front:
        await front.ready((0, 0), (0, 1))
        for lun in (0, 1):
            for command, options in (
                (MODE_SENSE_10, []),
                (MODE_SENSE_6, ["--six"]),
            ):
                reply = await front.run(0, lun, command, into=64)
                data = reply.data[: 64 - reply.residual]
                text = decode(["sdparm", "--inhex=-", *options], data)
                assert f"WCE           {lun}" in text
                assert parse.mode(data, not options).write_cache is bool(lun)


@pytest.mark.programs
@in_loop
async def test_sg3_utils_decode_lun_addresses_and_sense_data(path: str) -> None:
    spec = HostSpec({0: {n: LunSpec(4 << 40) for n in (0, 1, 7, 300)}})
    async with serving(path, spec), connected(path) as front:
        luns = await front.run(0, 0, struct.pack(">BxBxxxIxx", Opcode.REPORT_LUNS, 0, 512), into=512)
        assert (512 - luns.residual, luns.data[:4]) == (40, struct.pack(">I", 32))
        for i, words in enumerate(["Peripheral device addressing: lun=0", "lun=1", "lun=7", "Flat space", "lun=300"]):
            at = 8 + 8 * min(i, 3)
            text = decode(["sg_luns", f"--test={luns.data[at : at + 8].hex()}", "--decode"])
            assert words.lower() in text.lower(), text
        sense = (await front.run(0, 2, TEST_UNIT_READY)).sense
        text = decode(["sg_decode_sense", *(f"{byte:02x}" for byte in sense)])
        assert "Illegal Request" in text and "Logical unit not supported" in text
