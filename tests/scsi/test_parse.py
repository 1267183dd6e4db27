"""What units answer, byte by byte; sg3-utils has to read the same from the same bytes."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.scsi.sg3 import sg
from tests.support.fake_scsi_units import FakeUnit, designator, page
from tests.support.peers import run
from virtiod.controllers.scsi.unit import Unit
from virtiod.core.errors import ProtocolError
from virtiod.scsi import cdb, parse
from virtiod.scsi.spec import ModePage, VpdPage

UNIT = FakeUnit(serial="SN-0042", naa=0x5000C500A1B2C3D4, max_transfer=2048, max_write_same=65536, attentions=[])


def vpd(number: int) -> bytes:
    return UNIT.execute(cdb.inquiry(number), b"", [0])


# ---- sg3-utils


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


def test_a_name_of_a_unit_is_cleaned_where_it_enters() -> None:
    """Two that differ stay two. A text that could be the name of any bdev is no alias."""
    body = b"".join(designator(8, value) for value in (b"iqn.a\x1b[2J", b"iqn.a\x1b[3J", b"iqn.\xe2\x80\xaeb", b"V0"))
    found = parse.designators(page(VpdPage.DEVICE_IDENTIFICATION, body))
    assert [d.name for d in found] == [r"iqn.a\x1b[2J", r"iqn.a\x1b[3J", r"iqn.\u202eb", "V0"]
    unit = Unit(0, 0, parse.Inquiry(0, 0, 6, "", "", ""), parse.Capacity(1, 512), parse.Mode(False, False, None))
    assert replace(unit, designators=found).aliases() == [r"iqn.a\x1b[2J", r"iqn.a\x1b[3J", r"iqn.\u202eb"]
