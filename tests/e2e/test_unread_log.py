"""Programs whose output is a full pipe that nobody reads: they serve, answer and end as if it were read."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.callers import request
from tests.support.peers import Peer
from tests.support.pipes import FullPipe, full_pipe, printing_to
from tests.support.ports import free_port
from tests.support.process import Daemon, daemon, target
from tests.support.service_manager import telling
from tests.support.waiting import PATIENCE_S, wait_until

CALLS = 100
LONG = 30_000  # characters of a parameter, which are in both messages that a call leaves
GAP = re.compile(r"(\d+) messages? of the log, \d+ bytes? in [\d.]+ s, were dropped here: (.*)")
MESSAGE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (ERROR|WARNING|NOTICE|INFO) +[a-z._]+: ")


class Client:
    """One connection, so that the log has nothing but its calls."""

    def __init__(self, virtiod: Daemon) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(virtiod.socket))
        self._lines = self._socket.makefile()

    def fill_the_log(self) -> None:
        """Makes CALLS calls that are refused and audited: 6 MB of log in two messages each."""
        for number in range(CALLS):
            where = {"trtype": "pci", "traddr": f"n{number}-{'x' * LONG}"}
            call = request("bdev_virtio_attach_controller", number, name="V0", dev_type="blk", **where)
            self._socket.sendall(json.dumps(call).encode())
            assert json.loads(self._lines.readline())["error"]["code"] == -errno.EINVAL

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def dropped(port: int) -> int:
    (value,) = re.findall(r"^virtiod_log_messages_dropped_total (\d+)", get(port, "/metrics"), re.MULTILINE)
    return int(value)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[FullPipe]:
    with full_pipe(monkeypatch) as found:
        yield found


def test_a_daemon_serves_and_ends_though_nobody_reads_its_log(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, pipe: FullPipe
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    port = free_port()
    with telling(run_dir, monkeypatch) as told, daemon(run_dir, "--http", f"127.0.0.1:{port}") as virtiod:
        client = Client(virtiod)
        client.fill_the_log()
        assert virtiod.call("bdev_null_create", name="N0", num_blocks=8) == "N0"
        assert get(port, "/healthz") == "ok\n"
        told.until("; the log is not read, or its disk is full: ")
        for _ in range(2):
            told.clear()
            told.until("WATCHDOG=1")
        virtiod.process.send_signal(signal.SIGUSR1)  # whose stacks nobody reads either
        client.fill_the_log()
        client.close()
        assert get(port, "/healthz") == "ok\n"
        assert dropped(port) > CALLS
        assert virtiod.call("virtiod_get_log") == {"dropping": True, "dropped": dropped(port)}
        told.clear()
        virtiod.terminate()
        told.until("STOPPING=1")
        virtiod.ends()


def test_what_is_read_later_says_how_many_messages_are_missing(run_dir: Path, pipe: FullPipe) -> None:
    port = free_port()
    with daemon(run_dir, "--http", f"127.0.0.1:{port}") as virtiod:
        client = Client(virtiod)
        client.fill_the_log()
        missing = dropped(port)
        pipe.read()
        pipe.until("were dropped here")
        assert dropped(port) == missing
        assert virtiod.call("bdev_null_create", name="N0", num_blocks=8) == "N0"
        pipe.until('bdev_null_create {"name": "N0"')
        client.close()
    pipe.close()
    assert all(MESSAGE.match(line) for line in pipe.lines)
    told = [found for line in pipe.lines if (found := GAP.search(line))]
    assert [(int(found[1]), found[2]) for found in told] == [(missing, "nobody read it")]
    assert len([line for line in pipe.lines if "-xxx" in line]) + missing == 2 * CALLS
    kept = [int(found[1]) for line in pipe.lines if (found := re.search(r'"traddr": "n(\d+)-', line))]
    assert kept == list(range(len(kept)))  # those before the gap, in their order


def test_a_start_that_fails_ends_though_nobody_reads_why(run_dir: Path, pipe: FullPipe) -> None:
    Daemon(run_dir, "-c", run_dir / "none.json").ends(1)
    pipe.close()
    assert pipe.lines == []


@pytest.mark.waits
def test_a_watchdog_ends_it_though_nobody_reads_the_stacks(run_dir: Path, pipe: FullPipe) -> None:
    virtiod = Daemon(run_dir, "--nbd-socket", "none")
    virtiod.wait_listening()
    virtiod.process.send_signal(signal.SIGABRT)
    wait_until(lambda: virtiod.process.poll() is not None, "its end")
    assert virtiod.process.returncode == -signal.SIGALRM


def test_a_target_serves_and_ends_though_nobody_reads_what_it_prints(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon(run_dir) as virtiod, full_pipe(monkeypatch) as pipe:
        with target(run_dir, "--memory", "1M") as disk:
            for _ in range(3):
                virtiod.attach(disk.socket)
                virtiod.call("bdev_virtio_detach_controller", name="V0")
            disk.process.terminate()
            wait_until(lambda: disk.process.poll() is not None, "its end")
            assert disk.process.returncode == 0
        assert pipe.lines == []


def test_a_log_on_a_full_disk_is_no_failure(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with Path("/dev/full").open("w") as full, printing_to(full.fileno(), monkeypatch):
        virtiod = Daemon(run_dir, "--http", f"127.0.0.1:{port}")
    virtiod.wait_listening()
    client = Client(virtiod)
    client.fill_the_log()
    client.close()
    assert dropped(port) > CALLS
    virtiod.terminate()
    virtiod.ends()


def test_a_daemon_without_standard_streams_runs(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first files and sockets that it opens would have their numbers, and the log would go there."""
    close = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    words: list[str | Path] = [sys.executable, "-m", "virtiod.cli", "-r", run_dir / "rpc", "--http", "none", "-s", "16"]
    virtiod = Peer([sys.executable, "-c", close, *words], run_dir / "log", run_dir / "rpc")
    virtiod.wait_listening()
    streams = [str(Path(f"/proc/{virtiod.process.pid}/fd/{fd}").readlink()) for fd in range(3)]
    assert streams == ["/dev/null"] * 3
    virtiod.stop()
    assert virtiod.process.returncode == 0
