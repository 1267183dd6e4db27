"""Who may only read, by HTTP, can't write a line of the log."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from tests.support.callers import AS_READER, request, written
from tests.support.ports import free_port
from tests.support.process import daemon
from tests.support.waiting import PATIENCE_S

CONTROLS = ["\n", "\r", "\r\n", "\x1b[2K\x1b[1G", "\x0b", "\x7f", "\x85", "\x9b2J", "\u2028", "\u2029", "\u202e"]
FORGED = "2026-11-01 03:00:00,000 NOTICE  virtiod.rpc.audit: alice (admin): framework_set_reactors: ok, 0.1 ms"
MESSAGE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (ERROR|WARNING|NOTICE|INFO|DEBUG) +[a-z._]+: ")


def post(port: int, method: str, **params: object) -> None:
    body = json.dumps(request(method, **params)).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/rpc", body, {**AS_READER, "Host": "x"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        assert json.loads(answer.read())["error"]["code"] != 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_can_not_forge_a_line(run_dir: Path, form: str) -> None:
    port = free_port()
    options = ("--http", f"127.0.0.1:{port}", "--http-tokens", written(run_dir / "tokens"), "--http-rpc")
    with daemon(run_dir, *options, "--log-format", form, "--log-level", "DEBUG") as virtiod:
        for control in CONTROLS:
            name = f"x{control}{FORGED}"
            post(port, "bdev_get_bdevs", name=name)  # fails: its message has the name
            post(port, "nbd_delete_export", name=name)  # is not allowed to it, and audited
            post(port, name)  # is no method
            post(port, "bdev_get_bdevs", **{name: 1})  # is no parameter
    log = virtiod.log.read_bytes().decode()
    messages = log.split("\n")
    assert messages.pop() == ""
    assert len(messages) == len(log.splitlines())  # which ends lines at any character that could
    assert all(message.isprintable() for message in messages)
    if form == "json":
        told = [json.loads(message)["message"] for message in messages]
        assert all(message.isprintable() for message in told)
    else:
        assert all(MESSAGE.match(message) for message in messages)
        assert not any(message.startswith(FORGED) for message in messages)
    # Each name was logged twice: by the call that failed, and by the one that was audited.
    assert len([message for message in messages if "framework_set_reactors" in message]) >= 2 * len(CONTROLS)
