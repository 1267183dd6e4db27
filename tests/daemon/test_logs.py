"""How the log is written."""

from __future__ import annotations

import json
import logging

import pytest

from virtiod.daemon.logformats import JournalHandler, handler_for
from virtiod.daemon.logs import LogControl


def test_text_is_what_a_terminal_gets(capsys: pytest.CaptureFixture[str]) -> None:
    assert not isinstance(handler_for("auto"), JournalHandler)
    logs = LogControl("INFO", "json")
    logging.getLogger("virtiod.bdev").info("bdev %s: here", "B0")
    logs.close()
    assert json.loads(capsys.readouterr().err)["bdev"] == "B0"
