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

from tests.support.waiting import PATIENCE_S
from virtiod.core.levels import NOTICE
from virtiod.core.logtext import MAX_CHARACTERS, SafeFormatter
from virtiod.core.outqueue import MAX_MESSAGES
from virtiod.daemon.logformats import JsonFormatter, journal_entry, journal_handler, subjects


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


def test_fields_have_no_control_characters() -> None:
    forged = record("controller %s: bdev %s", "V0\nPRIORITY=0", "\udc80\x1b\u2028")
    fields = journal_entry(forged, "m").splitlines()
    assert [line for line in fields if line.startswith((b"CONTROLLER", b"BDEV"))] == [
        rb"CONTROLLER=V0\nPRIORITY=0",
        rb"BDEV=\udc80\x1b\u2028",
    ]
    assert len([line for line in fields if line.startswith(b"PRIORITY")]) == 1


def test_the_message_of_an_entry_is_a_line_and_its_traceback_is_indented() -> None:
    try:
        raise ValueError("x\nforged")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    text = SafeFormatter().format(record("m\n%s\x7f", "n", exc_info=info))
    first, *others = text.split("\n")
    assert first == r"m\nn\x7f"
    assert others[0] == "    Traceback (most recent call last):"
    assert others[-1] == "    forged"


def test_json_is_valid_and_has_no_control_characters() -> None:
    text = "".join(map(chr, [*range(0xA0), 0x2028, 0x202E, 0xD800]))
    line = JsonFormatter().format(record("bdev %s", text))
    assert line.isascii()
    assert line.isprintable()
    entry = json.loads(line)
    assert entry["message"].isprintable()
    assert entry["bdev"].isprintable()
    assert entry["message"].startswith(r"bdev \x00\x01")


def test_the_journal_gets_long_entries_as_sealed_files(run_dir: Path) -> None:
    path = str(run_dir / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(PATIENCE_S)
        handler = journal_handler(path)
        handler.emit(record("hello"))
        assert journal.recv(4096).startswith(b"MESSAGE=hello\n")
        handler.emit(record("\N{GRINNING FACE}" * MAX_CHARACTERS))
        data, fds, _, _ = socket.recv_fds(journal, 4096, 1)
        with os.fdopen(fds[0], "rb") as file:
            file.seek(0)  # as the journal does, which maps it
            assert (data, file.read(12)) == (b"", b"MESSAGE=\xf0\x9f\x98\x80")
        assert handler.finish()


def test_entries_wait_until_the_journal_takes_them_and_those_without_room_are_counted(run_dir: Path) -> None:
    path = str(run_dir / "journal")
    handler = journal_handler(path)
    sent = 2 * MAX_MESSAGES
    for number in range(sent):
        handler.emit(record("flood %d", number))
    assert handler.queue.dropping
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(PATIENCE_S)
        got = 0
        while b"were dropped" not in (entry := journal.recv(4096)):
            assert entry.startswith(b"MESSAGE=flood %d\n" % got)
            got += 1
    assert entry.startswith(b"MESSAGE=%d messages of the log, " % (sent - got))
    assert f": {path}: No such file or directory".encode() in entry
    assert handler.queue.dropped == sent - got
    assert handler.finish()


def test_a_journal_that_does_not_answer_does_not_hold_up_the_end(run_dir: Path) -> None:
    path = str(run_dir / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        handler = journal_handler(path)
        for _ in range(10_000):  # more than the socket takes
            handler.emit(record("flood"))
        assert not handler.finish(0.01)
