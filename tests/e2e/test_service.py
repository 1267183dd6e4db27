"""The daemon under a service manager, which here is the test: it hears notifications, hands over sockets, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import attach, export, null, write_config
from tests.support.process import Daemon, Pending, daemon, target
from tests.support.service_manager import telling
from tests.support.stopped_thread import stopped_thread
from tests.support.waiting import LOAD_S, wait_until


def test_a_service_says_how_it_goes_from_its_start_to_its_end(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with target(run_dir, "--memory", "16M", count=2) as disk, telling(run_dir, monkeypatch) as told:
        one, two = disk.socket, run_dir / "t1.sock"
        config = write_config(run_dir / "c", attach("V0", one), null("N0"), export("V0"))
        with daemon(run_dir, "-c", config) as virtiod:
            told.until("STATUS=1 controller up; 2 bdevs, 1 export")
            told.until("READY=1")
            load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, time_s=LOAD_S)
            virtiod.wait_busy()
            told.clear()
            write_config(config, attach("V0", one), attach("V1", two), export("V0"))
            virtiod.process.send_signal(signal.SIGHUP)
            told.until("READY=1")
            assert next(line for line in told if line != "WATCHDOG=1") == "RELOADING=1"
            told.until("STATUS=2 controllers up; 2 bdevs, 1 export")
            virtiod.wait_busy()
            assert virtiod.call("bdev_get_iostat", names=["V0"])["bdevs"][0]["num_read_ops"] > 0
            told.clear()
            virtiod.terminate()
            virtiod.ends()
            told.until("STOPPING=1")
            told.until("EXTEND_TIMEOUT_USEC=25000000")
            load.cancel()


def test_a_poller_that_stands_still_starves_the_watchdog(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    with telling(run_dir, monkeypatch) as told, daemon(run_dir) as virtiod:
        told.until("WATCHDOG=1")
        (reactor,) = virtiod.call("framework_get_reactors")["reactors"]
        with stopped_thread(reactor["tid"]):
            wait_until(lambda: "the watchdog is fed no more" in virtiod.log.read_text(), "the log to say so")
            told.until("WATCHDOG=1")  # what was sent before
            told.clear()
            assert virtiod.call("spdk_get_version")  # the control loop runs, and has fed nothing since
            assert told.nothing()
        told.until("WATCHDOG=1")
        assert "poller_0 has not completed a round for" in virtiod.log.read_text()


def test_sockets_that_systemd_listens_on_are_served(run_dir: Path) -> None:
    """As with virtiod.socket: clients wait in the backlog until the daemon has started, and the sockets stay."""
    with socket.socket(socket.AF_UNIX) as rpc, socket.socket() as http, socket.socket(socket.AF_UNIX) as nbd:
        rpc.bind(str(run_dir / "rpc"))
        nbd.bind(str(run_dir / "nbd"))
        http.bind(("127.0.0.1", 0))
        for listener in (rpc, http, nbd):
            listener.listen()
        early = Pending(run_dir / "rpc", "framework_wait_init", {})
        fds = [rpc.fileno(), http.fileno(), nbd.fileno()]
        # What systemd does between fork() and exec(): numbers from 3 on, and the process's own id.
        start = (
            "import fcntl, os, sys\n"
            "fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1:4]]\n"
            "for number, fd in enumerate(fds): os.dup2(fd, 3 + number, inheritable=True)\n"
            "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '3', 'LISTEN_FDNAMES': 'rpc:http:nbd'}\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'virtiod.cli', *sys.argv[4:]])\n"
        )
        words = [sys.executable, "-c", start, *map(str, fds), "-r", "/nowhere/rpc", "--nbd-socket", "none"]
        log = (run_dir / "log").open("w+")
        with log, subprocess.Popen(words, pass_fds=fds, stdout=log, stderr=log) as process:
            try:
                assert early.result() is True
                call = Pending(run_dir / "rpc", "bdev_null_create", {"name": "N0", "num_blocks": 8})
                assert call.result() == "N0"
                exported = Pending(run_dir / "rpc", "nbd_create_export", {"bdev_name": "N0"}).result()
                assert exported["uris"] == [f"nbd+unix:///N0?socket={run_dir}/nbd"]
                with socket.create_connection(http.getsockname(), 20) as client:
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
            finally:
                process.terminate()
                process.wait(20)
                log.seek(0)
                print(log.read())
        assert process.returncode == 0
        assert sorted(path.name for path in run_dir.iterdir()) == ["log", "nbd", "rpc"]


def test_the_configuration_that_is_dumped_can_be_loaded(run_dir: Path) -> None:
    def dump() -> Any:
        command = [sys.executable, "-m", "virtiod.cli", "dump-config", "-r", str(run_dir / "rpc")]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)

    config = run_dir / "dumped.json"
    with target(run_dir, "--memory", "1M") as disk:
        with daemon(run_dir) as virtiod:
            virtiod.attach(disk.socket)
            virtiod.call("bdev_null_create", name="N0", num_blocks=8)
            virtiod.export()
            first = dump()
            config.write_text(json.dumps(first))
        with daemon(run_dir, "-c", config):
            assert dump() == first


def test_json_lines_on_standard_error(run_dir: Path) -> None:
    with daemon(run_dir, "--log-format", "json") as virtiod:
        pass
    lines = [json.loads(line) for line in virtiod.log.read_text().splitlines()]
    assert lines[-1]["level"] in {"INFO", "WARNING"}
    assert any(line["message"].startswith("running: 1 poller") for line in lines)


def test_a_start_that_fails_still_exits_with_1(run_dir: Path) -> None:
    virtiod = Daemon(run_dir, "-c", run_dir / "none.json")
    virtiod.ends(1)
    assert "none.json: No such file or directory" in virtiod.log.read_text()
    assert [path.name for path in run_dir.iterdir()] == ["daemon0.log"]
