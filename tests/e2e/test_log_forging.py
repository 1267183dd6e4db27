"""Who may only read, by HTTP, or has no token, can't write a line of the log."""

from __future__ import annotations

import json
import re
import urllib.request
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.callers import AS_READER, request, written
from tests.support.ports import free_port
from tests.support.process import daemon
from tests.support.waiting import PATIENCE_S

CONTROLS = ["\n", "\r", "\r\n", "\x1b[2K\x1b[1G", "\x0b", "\x7f", "\x85", "\x9b2J", "\u2028", "\u2029", "\u202e"]
FORGED = "2026-11-01 03:00:00,000 NOTICE  virtiod.rpc.audit: ok"  # so short that no name or path that has it is cut
MESSAGE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (ERROR|WARNING|NOTICE|INFO|DEBUG) +[a-z._]+: ")


def post(port: int, method: str, **params: object) -> None:
    body = json.dumps(request(method, **params)).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/rpc", body, {**AS_READER, "Host": "x"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        assert json.loads(answer.read())["error"]["code"] != 0


def get_with_a_wrong_token(port: int, path: str, source: str) -> None:
    """source: the address to ask from, as few wrong tokens of one address are logged."""
    with closing(HTTPConnection("127.0.0.1", port, PATIENCE_S, (source, 0))) as connection:
        connection.request("GET", quote(path), headers={"Authorization": "Bearer wrong"})
        assert connection.getresponse().status == 401


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_can_not_forge_a_line(run_dir: Path, form: str) -> None:
    port = free_port()
    options = ("--http", f"127.0.0.1:{port}", "--http-tokens", written(run_dir / "tokens"), "--http-rpc")
    with daemon(run_dir, *options, "--log-format", form, "--log-level", "DEBUG") as virtiod:
        for number, control in enumerate(CONTROLS, 1):
            name = f"x{control}{FORGED}"
            get_with_a_wrong_token(port, f"/{control}{FORGED}", f"127.0.0.{number}")  # is logged with the path
            post(port, "bdev_get_bdevs", name=name)  # is refused: its message has the name
            post(port, "nbd_delete_export", name=name)  # is not allowed to it, and audited
            post(port, "bdev_get_bdevs", **{name: 1})  # is no parameter: its message has the name
            post(port, name)  # is no method, and not logged
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
    # Each was logged by the wrong token, by the two calls that were refused, and by the one that was audited.
    assert len([message for message in messages if FORGED in message]) == 4 * len(CONTROLS)
