"""Each message of the log is a line, whatever is in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from io import StringIO

import pytest

from virtiod.core.logtext import INDENT, MAX_CHARACTERS, TextFormatter, logged, text_handler
from virtiod.core.outqueue import Memory

FORGED = "2026-01-01 00:00:00,000 NOTICE  virtiod.rpc.audit: alice (admin): all is well"
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +[\w.]+: ")


def line(text: str, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    return TextFormatter().format(logging.LogRecord("virtiod.x", logging.ERROR, "f", 1, "%s", (text,), info))


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[2K\r", "\x0b", "\x85", "\u2028", "\u2029"])
def test_no_message_can_forge_a_line(control: str) -> None:
    (only,) = line(f"x{control}{FORGED}").splitlines()
    assert RECORD.match(only)
    assert only.endswith(f"{control.encode('unicode_escape').decode()}{FORGED}")


@pytest.mark.parametrize("control", ["\n", "\r", "\u2028"])
def test_no_traceback_can_forge_a_line(control: str) -> None:
    def fail() -> None:
        raise ValueError(f"x{control}{FORGED}")

    try:
        fail()
    except ValueError as error:
        first, *others = line("failed", error).splitlines()
    assert RECORD.match(first)
    assert others[0] == f"{INDENT}Traceback (most recent call last):"
    assert FORGED in "".join(others)
    assert all(other.startswith(INDENT) for other in others)


def test_what_is_very_long_is_cut() -> None:
    shown = line("x" * (MAX_CHARACTERS + 1))
    assert len(shown) < MAX_CHARACTERS + 100
    assert shown.endswith(f"xx... ({MAX_CHARACTERS + 1} characters)")


def handled(*records: logging.LogRecord, dropped: Sequence[int] = ()) -> list[str]:
    """What is printed of some messages. dropped: sizes of those that were lost before."""
    stream = StringIO()
    handler = text_handler(Memory(stream))
    for size in dropped:
        handler.queue._drop(size)
    for one in records:
        handler.handle(one)
    assert handler.finish()
    return stream.getvalue().splitlines()


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("virtiod.x", logging.ERROR, "f", 1, message, args, None)


def test_a_mistake_of_who_logs_is_a_message() -> None:
    (only,) = handled(record("%d things\n", "no"))
    assert r"virtiod.x: '%d things\n' has no form: TypeError(" in only


def test_a_gap_is_a_message() -> None:
    gap, following = handled(record("next"), dropped=(100, 11))
    what = r"2 messages of the log, 111 bytes in \d\.\d s, were dropped here: nobody read it"
    assert re.search(rf"WARNING virtiod\.core\.logtext: {what}$", gap)
    assert following.endswith(": next")


def test_warnings_of_all_libraries_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logged():
        logging.getLogger("asyncio").warning("slow\x1b")
    (only,) = capsys.readouterr().err.splitlines()
    assert only.endswith(r"WARNING asyncio: slow\x1b")
