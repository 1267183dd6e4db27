"""Addresses of LUNs, both ways; sg3-utils have to read the same."""

from __future__ import annotations

import struct

import pytest

from tests.support.peers import requires, run
from virtiod.scsi import address, parse


@pytest.mark.programs
@pytest.mark.parametrize("lun", [0, 1, 7, 255, 256, 300, 16383])
def test_sg_luns_reads_the_same_lun(lun: int) -> None:
    requires("sg_luns")
    entry = address.pack(0, lun)[2:4] + bytes(6)
    said = run("sg_luns", f"--test={entry.hex()}")
    assert f"Flat space addressing: lun={lun}" in said.replace("flat", "Flat")
    assert parse.luns(struct.pack(">I4x", 8) + entry) == ([lun], 16)


@pytest.mark.parametrize("lun", [0, 1, 255, 256, 16383])
def test_addresses_go_both_ways(lun: int) -> None:
    assert address.unpack(address.pack(200, lun)) == (200, lun)


@pytest.mark.parametrize(
    "data", [bytes(8), b"\x01\x02\x40", b"\x01\x00\x40\x00\x00\x00\x00\x01", b"\x01\x00\xc1\x01" + bytes(4)]
)
def test_what_is_no_address(data: bytes) -> None:
    assert address.unpack(data) is None
