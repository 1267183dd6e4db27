"""Sense data, in every format and in none; sg3-utils have to read the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_scsi_units import descriptor_sense, fixed_sense
from tests.support.peers import requires, run
from virtiod.scsi import sense
from virtiod.scsi.spec import Asc, SenseFormat, SenseKey


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


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, True) for code in (0x2800, 0x2900, 0x2901, 0x2907, 0x29FF, 0x3F03, 0x3F0E)),
        *((code, False) for code in (0, 0x2801, 0x2A01, 0x2A09, 0x2F00, 0x3F01, 0x3F05)),
    ],
)
def test_some_unit_attentions_may_mean_another_disk(code: int, expected: bool) -> None:
    assert bool(sense.may_be_another(code)) is expected
    assert bool(sense.may_lose_cache(code)) is (expected and code >> 8 != 0x3F)
