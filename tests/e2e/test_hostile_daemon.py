"""virtiod-rpc with a daemon that answers anything: on a terminal, in other encodings, and with closed streams."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rpc_client.printing import width
from tests.support.waiting import PATIENCE_S, wait_until

COLUMNS, LINES = 60, 16
OWN = re.compile(r"\x1b\[(?:\?1049[hl]|\?25[hl]|[HJK]|[\d;]*m)")  # what top itself sends
NAMES = [
    "a\nb",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "abc\u202ezyx",
    "\ud800\udfff",
    "\x7f",
    "x" * 60_000,
    "ディスク" * 99,
]


def bdev(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "product_name": name,
        "num_blocks": 8,
        "block_size": 512,
        "claimed": False,
        "supported_io_types": {name: True},
        "io_error": {name: 7},
    }


def answer(method: str) -> dict[str, Any]:
    """A member of the response."""
    pollers = [{"id": 1, "name": NAMES[0], "cpu": NAMES[1], "mode": NAMES[2], "in_flight": NAMES[3]}]
    controllers = [
        {
            "name": name,
            "dev_type": name,
            "trtype": name,
            "traddr": name,
            "state": name,
            "reconnects": name,
            "virtio": {"vq_count": name, "vq_size": name},
            "queues": [{"in_flight": 1}],
        }
        for name in NAMES
    ]
    results: dict[str, Any] = {
        "bdev_get_bdevs": [bdev(name) for name in NAMES],
        "bdev_get_iostat": {"ticks": 1, "tick_rate": 1, "bdevs": [bdev(name) for name in NAMES]},
        "virtiod_get_controllers": controllers,
        "virtiod_get_pollers": {"pollers": pollers},
        "log_get_level": NAMES[1],
        "log_get_flags": dict.fromkeys(NAMES, True),
        "rpc_get_methods": NAMES,
    }
    if method in results:
        return {"result": results[method]}
    return {"error": {"code": -1, "message": f"{NAMES[1]}\nvirtiod-rpc: \ud800"}}


@contextmanager
def hostile(run_dir: Path) -> Iterator[Path]:
    """The socket of a daemon that answers each call with text of all kinds."""
    path = run_dir / "hostile"
    over = threading.Event()

    def serve(connected: socket.socket) -> None:
        with connected:
            while data := connected.recv(65536):
                request = json.loads(data)
                line = json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer(request["method"])})
                connected.sendall(line.encode() + b"\n")

    def accept() -> None:
        served = []
        while True:
            connected, _ = listener.accept()
            if over.is_set():
                connected.close()
                break
            served.append(threading.Thread(target=serve, args=(connected,)))
            served[-1].start()
        for thread in served:
            thread.join()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


class Terminal:
    """A program on a terminal of LINES and COLUMNS."""

    def __init__(self, *command: str | Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.shown += data
        except OSError:  # the program has closed its end
            pass

    def ends(self) -> tuple[int, str]:
        """Its exit status, and all that it showed."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        os.close(self.master)
        return status, self.shown.decode().replace("\r\n", "\n")


def rpc(path: Path, *words: str) -> list[str | Path]:
    return [sys.executable, "-m", "rpc_client.cli", "-s", path, *words]


def test_top_shows_them_all_within_the_screen_until_it_is_ended(run_dir: Path) -> None:
    with hostile(run_dir) as path:
        terminal = Terminal(*rpc(path, "top", "-i", "0.02"))
        wait_until(lambda: terminal.shown.count(b"\x1b[H") >= 3, "three views")
        terminal.process.send_signal(signal.SIGINT)
        status, shown = terminal.ends()
    assert status == 130
    assert shown.startswith("\x1b[?1049h\x1b[?25l") and shown.rstrip("^C\n").endswith("\x1b[?25h\x1b[?1049l")
    for screen in shown.split("\x1b[H")[1:4]:
        lines = OWN.sub("", screen).split("\n")
        assert len(lines) <= LINES
        assert all(width(line) <= COLUMNS and line.isprintable() for line in lines)
        assert any(line.startswith("BDEV") for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ("bdev_get_bdevs",),
        ("virtiod_get_controllers",),
        ("log_get_level",),
        ("log_get_flags",),
        ("rpc_get_methods",),
        ("nbd_delete_export", "x"),
        ("bdev_get_iostat",),
        ("virtiod_get_pollers",),
        ("--json", "bdev_get_bdevs"),
        ("-s", "/nobody", "bdev_get_bdevs"),
        ("-s", "/nobody", "log_get_level"),
    ],
)
def test_every_form_of_an_answer_can_be_printed_anywhere(run_dir: Path, words: tuple[str, ...]) -> None:
    is_table = words[0] in {"bdev_get_bdevs", "virtiod_get_controllers", "-s"}
    with hostile(run_dir) as path:
        command = list(map(str, rpc(path, *words)))
        status, shown = Terminal(*command).ends()
        lines = shown.split("\n")
        assert all(line.isprintable() for line in lines)
        assert "Traceback" not in shown
        assert not is_table or all(width(line) <= COLUMNS for line in lines)
        for environment, redirected in (
            ({"PYTHONIOENCODING": "ascii:strict"}, ""),
            ({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, ""),
            ({}, ">&-"),
            ({}, "2>&-"),
            ({}, "<&- >&- 2>&-"),
        ):
            again = subprocess.run(
                ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
                env={**os.environ, **environment},
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert again.returncode == status, (environment, redirected, again)
            assert b"Traceback" not in again.stderr
            text = (again.stdout + again.stderr).decode()
            assert all(line.isprintable() for line in text.split("\n"))


def test_what_can_not_be_written_is_an_error_in_one_line(run_dir: Path) -> None:
    with hostile(run_dir) as path:
        for words in (("bdev_get_bdevs",), ("top", "-n", "1", "-i", "0.01")):
            with Path("/dev/full").open("wb") as full:
                command = list(map(str, rpc(path, *words)))
                tried = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
            assert tried.returncode == 1
            assert tried.stderr == b"virtiod-rpc: standard output: [Errno 28] No space left on device\n"
        for word, closing, why in (
            ("top", ">&-", "top: standard output is closed"),
            ("load_config", "<&-", "standard input is closed"),
        ):
            command = ["sh", "-c", f'exec "$@" {closing}', "sh", *map(str, rpc(path, word))]
            closed = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
            assert (closed.returncode, closed.stderr.decode()) == (1, f"virtiod-rpc: {why}\n")
