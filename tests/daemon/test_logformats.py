"""Formats of the log: JSON lines, entries of the journal."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from virtiod.core.levels import NOTICE
from virtiod.daemon.logformats import JournalHandler, JsonFormatter, journal_entry, subjects


def record(message: str, *args: Any, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    return logging.LogRecord(
        "virtiod.controllers.blk.controller", level, "/x/blk.py", 7, message, args, more.get("exc_info"), "f"
    )


@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("controller %s: %s -> %s", ("V0", "up", "gone"), {"controller": "V0"}),
        ("NBD export %s of bdev %s created", ("e", "V1"), {"export": "e", "bdev": "V1"}),
        ("%d%% of bdev %s", (7, "V1"), {"bdev": "V1"}),
        ("%s: connected to NBD export %s", ("pid 1", "e"), {"export": "e"}),
        ("controller is %s", ("V0",), {}),
        ("nothing", (), {}),
    ],
)
def test_what_a_message_is_about_is_in_its_form(message: str, args: tuple[Any, ...], expected: dict[str, str]) -> None:
    assert dict(subjects(record(message, *args))) == expected


def test_json_is_an_object_in_a_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        failed = record("controller %s: %s", "V0", "no", level=logging.ERROR, exc_info=(ValueError, error, None))
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "ERROR",
        "logger": "virtiod.controllers.blk.controller",
        "message": "controller V0: no",
        "controller": "V0",
        "exception": "ValueError: two\nlines",
    }


def test_entries_of_the_journal_have_fields() -> None:
    entry = journal_entry(record("controller %s: up", "V0", level=NOTICE), "controller V0: up\nsecond line")
    head, _, rest = entry.partition(b"\n")
    assert head == b"MESSAGE"
    (length,) = struct.unpack_from("<Q", rest)
    assert rest[8 : 8 + length] == b"controller V0: up\nsecond line"
    fields = dict(line.split(b"=", 1) for line in rest[9 + length :].splitlines())
    assert (
        fields.items()
        >= {
            b"PRIORITY": b"5",
            b"SYSLOG_IDENTIFIER": b"virtiod",
            b"CODE_FILE": b"/x/blk.py",
            b"CODE_LINE": b"7",
            b"CODE_FUNC": b"f",
            b"LOGGER": b"virtiod.controllers.blk.controller",
            b"CONTROLLER": b"V0",
        }.items()
    )


@pytest.mark.parametrize(
    ("level", "priority"), [(10, b"7"), (20, b"6"), (NOTICE, b"5"), (30, b"4"), (40, b"3"), (50, b"3")]
)
def test_levels_are_priorities(level: int, priority: bytes) -> None:
    assert b"\nPRIORITY=" + priority + b"\n" in journal_entry(record("m", level=level), "m")


def test_the_journal_gets_long_entries_as_sealed_files_and_is_never_waited_for(run_dir: Path) -> None:
    path = str(run_dir / "journal")
    handler = JournalHandler(path)
    handler.emit(record("nobody listens"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(10)
        handler.emit(record("hello"))
        entry = journal.recv(4096)
        assert entry.startswith(b"MESSAGE=hello\n")
        assert b"VIRTIOD_LOST_ENTRIES=1\n" in entry
        handler.emit(record("x" * 1_000_000))
        data, fds, _, _ = socket.recv_fds(journal, 4096, 1)
        with os.fdopen(fds[0], "rb") as file:
            file.seek(0)  # as the journal does, which maps it
            assert (data, file.read(10)) == (b"", b"MESSAGE=xx")
        for _ in range(10_000):  # more than the socket takes
            handler.emit(record("flood"))
    handler.close()
