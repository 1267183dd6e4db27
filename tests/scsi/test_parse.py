"""What units answer, byte by byte; sg3-utils has to read the same from the same bytes."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.peers import requires, run
from tests.support.scsi_units import FakeUnit, descriptor_sense, designator, fixed_sense, page
from virtiod.core.errors import ProtocolError
from virtiod.scsi import address, cdb, config, event, parse, sense
from virtiod.scsi.spec import Asc, ModePage, SenseFormat, SenseKey, VpdPage

UNIT = FakeUnit(serial="SN-0042", naa=0x5000C500A1B2C3D4, max_transfer=2048, max_write_same=65536, attentions=[])


def vpd(number: int) -> bytes:
    return UNIT.execute(cdb.inquiry(number), b"", [0])


# ---- sg3-utils


def sg(tool: str, run_dir: Path, data: bytes, *options: str) -> str:
    requires(tool)
    file = run_dir / "answer"
    file.write_bytes(data)
    return run(tool, *options, f"--inhex={file}", "--raw")


@pytest.mark.programs
def test_sg_inq_reads_the_same_inquiry(run_dir: Path) -> None:
    data = UNIT.execute(cdb.inquiry(), b"", [0])
    said = sg("sg_inq", run_dir, data)
    who = parse.inquiry(data)
    assert who.is_disk
    for label, value in (("Vendor", who.vendor), ("Product", who.product), ("Product revision level", who.revision)):
        assert f" {label}" in said
        assert f": {value}" in said


@pytest.mark.programs
def test_sg_vpd_reads_the_same_pages(run_dir: Path) -> None:
    serial = vpd(VpdPage.UNIT_SERIAL_NUMBER)
    assert f"Unit serial number: {parse.serial(serial)}" in sg("sg_vpd", run_dir, serial, "--page=sn")
    pages = parse.supported_pages(vpd(VpdPage.SUPPORTED_PAGES))
    listed = sg("sg_vpd", run_dir, vpd(VpdPage.SUPPORTED_PAGES), "--page=sv")
    assert set(VpdPage) - {VpdPage.BLOCK_DEVICE_CHARACTERISTICS} == set(pages)
    assert all(words in listed for words in ("Unit serial number", "Device identification", "Block limits"))
    limits = parse.block_limits(vpd(VpdPage.BLOCK_LIMITS))
    said = sg("sg_vpd", run_dir, vpd(VpdPage.BLOCK_LIMITS), "--page=bl")
    for name, value in (
        ("Maximum transfer length", limits.max_transfer),
        ("Optimal transfer length", limits.optimal_transfer),
        ("Maximum unmap LBA count", limits.max_unmap),
        ("Maximum unmap block descriptor count", limits.max_unmap_descriptors),
        ("Maximum write same length", limits.max_write_same),
    ):
        found = re.search(rf"{name}: (\S+)", said)
        assert found, said
        assert int(found[1], 0) == value
    thin = parse.provisioning(vpd(VpdPage.LOGICAL_BLOCK_PROVISIONING))
    said = sg("sg_vpd", run_dir, vpd(VpdPage.LOGICAL_BLOCK_PROVISIONING), "--page=lbpv")
    assert f"(LBPU): {int(thin.unmap)}" in said
    assert f"(LBPWS): {int(thin.write_same_unmap)}" in said


@pytest.mark.programs
def test_sg_vpd_reads_the_same_designators(run_dir: Path) -> None:
    first, second = parse.designators(vpd(VpdPage.DEVICE_IDENTIFICATION))
    said = sg("sg_vpd", run_dir, vpd(VpdPage.DEVICE_IDENTIFICATION), "--page=di")
    assert first.name == f"naa.{UNIT.naa:016x}"
    assert f"0x{UNIT.naa:016x}" in said
    assert second.name == "t10.VIRTIOD SN-0042"
    assert "vendor id: VIRTIOD" in said


@pytest.mark.programs
@pytest.mark.parametrize("cache", [True, False])
def test_sdparm_reads_the_same_mode(run_dir: Path, cache: bool) -> None:
    """sg3-utils decode no MODE SENSE from a file."""
    unit = FakeUnit(write_cache=cache, attentions=[])
    for command, long in ((cdb.mode_sense_10(ModePage.CACHING), True), (cdb.mode_sense_6(ModePage.CACHING), False)):
        data = unit.execute(command, b"", [0])
        file = run_dir / "mode"
        file.write_text(data.hex(" "))
        said = run("sdparm", f"--inhex={file}", *([] if long else ["--six"]))
        found = re.search(r"WCE +(\d)", said)
        assert found, said
        assert parse.mode(data, long).write_cache is bool(int(found[1])) is cache


@pytest.mark.programs
@pytest.mark.parametrize("make", [fixed_sense, descriptor_sense])
@pytest.mark.parametrize(
    ("key", "code", "words"),
    [
        (SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR, "Unrecovered read error"),
        (SenseKey.UNIT_ATTENTION, Asc.CAPACITY_CHANGED, "Capacity data has changed"),
        (SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE, "Logical block address out of range"),
        (SenseKey.UNIT_ATTENTION, Asc.REPORTED_LUNS_CHANGED, "Reported luns data has changed"),
        (SenseKey.NOT_READY, Asc.BECOMING_READY, "Logical unit is in process of becoming ready"),
    ],
)
def test_sg_decode_sense_reads_the_same_sense(
    run_dir: Path, make: Callable[[int, int], bytes], key: SenseKey, code: Asc, words: str
) -> None:
    requires("sg_decode_sense")
    data = make(key, code)
    file = run_dir / "sense"
    file.write_bytes(data)
    said = run("sg_decode_sense", f"--binary={file}")
    assert words in said
    assert sense.parse(data) == sense.Sense(key, code >> 8, code & 0xFF)


@pytest.mark.programs
@pytest.mark.parametrize("lun", [0, 1, 7, 255, 256, 300, 16383])
def test_sg_luns_reads_the_same_lun(lun: int) -> None:
    requires("sg_luns")
    entry = address.pack(0, lun)[2:4] + bytes(6)
    said = run("sg_luns", f"--test={entry.hex()}")
    assert f"Flat space addressing: lun={lun}" in said.replace("flat", "Flat")
    assert parse.luns(struct.pack(">I4x", 8) + entry) == ([lun], 16)


# ---- one by one


def test_luns_by_peripheral_and_flat_addressing_once_each_and_in_order() -> None:
    entries = [b"\x41\x2c", b"\x00\x07", b"\x40\x07", b"\x00\x00", b"\xc1\x01", b"\x01\x05", b"\x80\x01"]
    data = struct.pack(">I4x", 8 * len(entries)) + b"".join(e + bytes(6) for e in entries)
    assert parse.luns(data)[0] == [0, 7, 300]
    assert parse.luns(data[:20])[0] == [300]
    with pytest.raises(ProtocolError):
        parse.luns(data[:7])


def test_designators_of_ports_and_of_wrong_sizes_do_not_name_the_unit() -> None:
    body = (
        designator(3, bytes(8), association=1)
        + designator(3, bytes(7))
        + designator(8, b"iqn.2026-01.org.example:disk\0\0\0\0")
        + designator(10, b"\x10\x00" + bytes(range(16)))
        + designator(2, bytes(8))
        + designator(3, bytes(8))[:-1]
    )
    found = parse.designators(page(VpdPage.DEVICE_IDENTIFICATION, body))
    assert [d.name for d in found] == [
        "uuid.000102030405060708090a0b0c0d0e0f",
        "eui.0000000000000000",
        "iqn.2026-01.org.example:disk",
    ]
    assert parse.unit_uuid(found) == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert parse.unit_uuid([]) is None


def test_capacities() -> None:
    assert parse.capacity_10(struct.pack(">II", 99, 512)) == parse.Capacity(100, 512)
    assert parse.capacity_10(struct.pack(">II", 0xFFFFFFFF, 512)) is None
    assert parse.capacity_16(struct.pack(">QIBBBB", 1 << 33, 4096, 0, 3, 0x80, 0)) == parse.Capacity(
        (1 << 33) + 1, 4096, 3, True
    )


@pytest.mark.parametrize("long", [False, True])
def test_mode_sense_finds_the_caching_page_behind_others(long: bool) -> None:
    pages = b"\x01\x02\xff\xff" + b"\x4a\x01\x00\x02\xff\xff" + b"\x88\x12\x04" + bytes(17)
    descriptor = bytes(8)
    n = len(descriptor) + len(pages)
    data = (struct.pack(">HBB2xH", 6 + n, 0, 0x80, 8) if long else bytes([3 + n, 0, 0x80, 8])) + descriptor + pages
    assert parse.mode(data, long) == parse.Mode(True, False, True)
    assert parse.mode(data[:-19], long).write_cache is None


@pytest.mark.parametrize("lun", [0, 1, 255, 256, 16383])
def test_addresses_go_both_ways(lun: int) -> None:
    assert address.unpack(address.pack(200, lun)) == (200, lun)


@pytest.mark.parametrize(
    "data", [bytes(8), b"\x01\x02\x40", b"\x01\x00\x40\x00\x00\x00\x00\x01", b"\x01\x00\xc1\x01" + bytes(4)]
)
def test_what_is_no_address(data: bytes) -> None:
    assert address.unpack(data) is None


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ((0, 126, 0xFFFF, 1, 16, 96, 32, 0, 255, 16383), "num_queues"),
        ((1, 126, 0xFFFF, 1, 16, 96, 15, 0, 255, 16383), "cdb_size"),
        ((1, 126, 0xFFFF, 1, 16, 300, 32, 0, 255, 16383), "sense_size"),
        ((1, 126, 0xFFFF, 1, 17, 96, 32, 0, 255, 16383), "event_info_size"),
    ],
)
def test_configurations_that_can_not_be(fields: tuple[int, ...], what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        config.parse(struct.pack("<IIIIIIIHHI", *fields))


def test_a_configuration_is_bounded() -> None:
    huge = config.parse(struct.pack("<IIIIIIIHHI", *[0xFFFFFFFF] * 4, 16, 96, 32, 0xFFFF, 0xFFFF, 0xFFFFFFFF))
    assert (huge.max_segments, huge.max_transfer, huge.max_target, huge.max_lun) == (254, 0xFFFF * 512, 255, 16383)
    zero = config.parse(struct.pack("<IIIIIIIHHI", 1, 0, 0, 0, 0, 96, 32, 0, 0, 0))
    assert (zero.max_segments, zero.max_transfer, zero.max_target) == (126, 0xFFFF * 512, 0)


def test_events() -> None:
    where = address.pack(3, 300)
    parsed = event.parse(struct.pack("<I8sI", 1 | 1 << 31, where, 2))
    assert parsed == event.Event(event.What.REMOVED, True, 3, 300, 2)
    assert event.parse(struct.pack("<I8sI", 1 << 31, bytes(8), 0)).missed
    for data in (bytes(15), struct.pack("<I8sI", 1, bytes(8), 1), struct.pack("<I8sI", 3, b"\2" + bytes(7), 1)):
        with pytest.raises(ProtocolError):
            event.parse(data)


FIXED = fixed_sense(SenseKey.MEDIUM_ERROR, Asc.READ_ERROR_REALLOCATION_FAILED)
DESCRIPTOR = descriptor_sense(SenseKey.MEDIUM_ERROR, Asc.READ_ERROR_REALLOCATION_FAILED)
FOUND = sense.Sense(3, 0x11, 4)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (FIXED, FOUND),
        (bytes([SenseFormat.FIXED_DEFERRED]) + FIXED[1:], dataclasses.replace(FOUND, deferred=True)),
        (bytes([0x80 | SenseFormat.FIXED_CURRENT]) + FIXED[1:], FOUND),  # VALID
        (FIXED[:13], sense.Sense(3)),
        (FIXED[:7] + bytes([5]) + FIXED[8:], sense.Sense(3)),
        (DESCRIPTOR, FOUND),
        (bytes([SenseFormat.DESCRIPTOR_DEFERRED]) + DESCRIPTOR[1:], dataclasses.replace(FOUND, deferred=True)),
        (DESCRIPTOR[:3], None),
        (FIXED[:2], None),
        (b"\x74" + bytes(20), None),
        (b"", None),
    ],
)
def test_sense_is_read_in_every_format(data: bytes, found: sense.Sense | None) -> None:
    assert sense.parse(data) == found


@given(st.binary(max_size=40))
def test_any_bytes_are_sense_or_none(data: bytes) -> None:
    found = sense.parse(data)
    assert found is None or str(found).endswith(f"({found.key:x}/{found.asc:02x}/{found.ascq:02x})")
