"""What is logged."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import warnings
from typing import Any

import pytest

from virtiod.daemon.logs import LogControl, log_what_python_prints


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_is_written_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogControl("INFO", "json")
    logging.getLogger("virtiod.bdev").info("bdev %s: here", "B0")
    logs.close()
    (entry,) = logged(capsys)
    assert entry["bdev"] == "B0"


def test_other_libraries_are_logged_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogControl("INFO", "json")
    logs.set_flag("http", True)
    logging.getLogger("aiohttp.http").info("no")
    logging.getLogger("asyncio").warning("yes")
    logs.close()
    assert [entry["message"] for entry in logged(capsys)] == ["yes"]


def test_stacks_are_logged_whatever_the_level_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogControl("ERROR", "json")
    logs.log_stacks("Thread 1:\n  File x\n")
    logs.close()
    (entry,) = logged(capsys)
    assert (entry["level"], entry["stacks"]) == ("NOTICE", "Thread 1:\n  File x")


class Unfinished:
    def __del__(self) -> None:
        raise ValueError("in a finalizer")


def test_what_python_prints_by_itself_is_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    logs = LogControl("INFO", "json")

    def fail() -> None:
        raise ValueError("in a thread")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log_what_python_prints()
        try:
            warnings.warn("old\n", DeprecationWarning, stacklevel=1)
            Unfinished()
            gc.collect()
            thread = threading.Thread(target=fail, name="t")
            thread.start()
            thread.join()
        finally:
            logging.captureWarnings(False)
    logs.close()
    warned, unraisable, failed = logged(capsys)
    assert (warned["logger"], warned["level"]) == ("py.warnings", "WARNING")
    assert unraisable["exception"].endswith("ValueError: in a finalizer")
    assert failed["message"] == "thread t failed"
    assert failed["exception"].endswith("ValueError: in a thread")
