"""What the service manager is told, and the sockets that it hands over. The manager here is a datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from tests.support.daemon import FakeSystem
from tests.support.rpc_peer import connected
from tests.support.service_manager import environment, manager, said
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.daemon.systemd import Notifier, is_journal, take_sockets


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_what_is_told(run_dir: Path, abstract: bool) -> None:
    address = f"@{run_dir}/n" if abstract else f"{run_dir}/n"
    variables = environment(address, 30)
    with manager(address) as heard:
        notifier = Notifier(variables)
        assert variables == {"KEPT": "yes"}
        assert (bool(notifier), notifier.watchdog_s) == (True, 30.0)
        notifier.ready()
        notifier.status("two\nlines")
        notifier.status("two\nlines")  # not told again
        notifier.extend(1.5)
        notifier.watchdog()
        notifier.stopping()
        assert said(heard) == [
            "READY=1",
            r"STATUS=two\nlines",
            "EXTEND_TIMEOUT_USEC=1500000",
            "WATCHDOG=1",
            "STOPPING=1",
        ]
        notifier.status("bdev \udc80: \x1b")
        assert said(heard) == [r"STATUS=bdev \udc80: \x1b"]
        notifier.reloading()
        reloading, now = said(heard)
        assert (reloading, now.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
        assert abs(int(now.partition("=")[2]) * 1000 - time.monotonic_ns()) < 60e9
        notifier.close()


def test_without_a_manager_nothing_happens(run_dir: Path) -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.close()
    assert (bool(notifier), notifier.watchdog_s) == (False, 0)
    gone = Notifier(environment(run_dir / "gone"))
    gone.ready()  # it has ended in the meantime
    gone.close()


def test_another_process_watchdog_is_not_ours(run_dir: Path) -> None:
    notifier = Notifier(environment(run_dir / "n", 30, pid=1))
    assert notifier.watchdog_s == 0
    notifier.close()


# ---- the daemon's life


# ---- sockets that are handed over


def hand_over(names: str, *listeners: socket.socket) -> dict[str, str]:
    """The environment for these sockets, which get the numbers from 3 on for as long as take_sockets() looks."""
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(listeners)), "LISTEN_FDNAMES": names}


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def taken(monkeypatch: pytest.MonkeyPatch, names: str, *listeners: socket.socket) -> dict[str, socket.socket]:
    monkeypatch.setattr("virtiod.daemon.systemd.FIRST_FD", 500)
    fds = [os.dup2(one.fileno(), 500 + number) for number, one in enumerate(listeners)]
    assert fds == [500 + number for number in range(len(listeners))]
    return take_sockets(hand_over(names, *listeners))


def test_sockets_are_taken_by_name(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listener(run_dir / "a") as one, listener(run_dir / "b") as two, socket.socket(socket.AF_UNIX) as deaf:
        found = taken(monkeypatch, "rpc:other:http", one, two, deaf)
        assert list(found) == ["rpc"]
        assert found["rpc"].getsockname() == str(run_dir / "a")
        assert not found["rpc"].get_inheritable()
        found["rpc"].close()
    assert caplog.text.count("from systemd is not used") == 2
    assert take_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "rpc"}) == {}


def test_rpc_is_served_on_a_socket_that_was_handed_over(run_dir: Path) -> None:
    async def run() -> None:
        handed = listener(run_dir / "rpc")
        handed.setblocking(False)
        daemon = Daemon(Options(rpc_socket="/elsewhere"), {"rpc": handed}, lambda _: FakeSystem())
        await daemon.start()
        async with connected(run_dir) as peer:
            assert "result" in await peer.ask("rpc_get_methods")
        await daemon.stop(5)

    asyncio.run(run())
    assert [path.name for path in run_dir.iterdir()] == ["rpc"]  # it is the manager's to remove


def test_the_journal_is_known_by_its_stream(run_dir: Path) -> None:
    with (run_dir / "log").open("w") as log:
        status = os.fstat(log.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert is_journal(log.fileno(), {"JOURNAL_STREAM": stream})
        assert not is_journal(log.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(log.fileno(), {})
        assert not is_journal(log.fileno(), {"JOURNAL_STREAM": "x"})
