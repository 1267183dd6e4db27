"""Who uses a bdev, and what speaks against writing garbage to it."""

from __future__ import annotations

import pytest

from virtiod.bdev.use import Access, Use, against_writing, exclusive, in_use, named

IDLE = Use("nbd", "NBD export", "idle", Access.NONE)
READ_ONLY = Use("nbd", "NBD export", "ro", Access.NONE, read_only=True)
READER = Use("nbd", "NBD export", "ro", Access.READ, ["pid 7 uid 0"], read_only=True)
WRITER = Use("nbd", "NBD export", "rw", Access.WRITE, ["10.0.0.1:1234", "pid 8 uid 9"])
LOAD = Use("load", "load", "randread", Access.READ)
EXCLUSIVE = Use("load", "load", "verify", Access.WRITE, exclusive=True)
CROWD = Use("nbd", "NBD export", "crowd", Access.WRITE, [f"10.0.0.1:{port}" for port in range(1, 1025)])


@pytest.mark.parametrize(
    ("uses", "why"),
    [
        ([], ""),
        ([IDLE], ""),
        ([IDLE, READ_ONLY], "exported read-only by NBD export ro"),
        ([READER], "in use by NBD export ro of pid 7 uid 0 (to read)"),
        ([IDLE, WRITER], "in use by NBD export rw of 10.0.0.1:1234, pid 8 uid 9 (to write)"),
        ([LOAD], "in use by load randread (to read)"),
        (
            [EXCLUSIVE, READER],
            "in use by load verify (to write), NBD export ro of pid 7 uid 0 (to read)",
        ),
        ([CROWD], "in use by NBD export crowd of 10.0.0.1:1, 10.0.0.1:2, 10.0.0.1:3 and 1021 more (to write)"),
    ],
)
def test_what_speaks_against_writing_names_who_it_is(uses: list[Use], why: str) -> None:
    assert against_writing(uses) == why


def test_messages_stay_short_whoever_uses_it() -> None:
    assert (
        named([LOAD] * 1000) == "load randread (to read), load randread (to read), load randread (to read) and 997 more"
    )


def test_an_export_without_clients_is_no_use_and_one_load_can_be_exclusive() -> None:
    assert in_use([IDLE, READ_ONLY, WRITER, LOAD]) == [WRITER, LOAD]
    assert exclusive([IDLE, WRITER, LOAD]) is None
    assert exclusive([LOAD, EXCLUSIVE]) is EXCLUSIVE
