"""What the service manager is told, and the sockets that it hands over. The manager here is a datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.daemon import FakeSystem, running
from tests.support.rpc_peer import connected
from virtiod.controllers.controller import State
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.daemon.service import Service
from virtiod.daemon.systemd import Notifier, is_journal, take_sockets


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + address[1:] if address[0] == "@" else address)
        heard.setblocking(False)
        yield heard


def said(heard: socket.socket) -> list[str]:
    """All that was sent since the last time."""
    lines = []
    while True:
        try:
            lines += heard.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


def environment(address: Path | str, watchdog_s: float = 0, pid: int = 0) -> dict[str, str]:
    found = {"NOTIFY_SOCKET": str(address), "KEPT": "yes"}
    if watchdog_s:
        found |= {"WATCHDOG_USEC": str(int(watchdog_s * 1e6)), "WATCHDOG_PID": str(pid or os.getpid())}
    return found


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
        assert said(heard) == ["READY=1", "STATUS=two lines", "EXTEND_TIMEOUT_USEC=1500000", "WATCHDOG=1", "STOPPING=1"]
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


def test_ready_is_told_when_the_configuration_is_applied_not_before(run_dir: Path) -> None:
    async def run() -> None:
        with manager(f"{run_dir}/n") as heard:
            notifier = Notifier(environment(run_dir / "n", 30))
            async with running(run_dir, wait_for_rpc=True) as daemon:
                service = Service(daemon, notifier)
                service.tell()
                first = said(heard)
                assert "READY=1" not in first
                assert first[0].startswith("STATUS=starting: 0 controllers up")
                assert [line.partition("=")[0] for line in first[1:]] == ["EXTEND_TIMEOUT_USEC", "WATCHDOG"]
                await daemon.start_init()
                service.tell()
                service.tell()
                assert said(heard).count("READY=1") == 1
                service.stopping()
                assert said(heard)[0] == "STOPPING=1"
            notifier.close()

    asyncio.run(run())


def test_the_status_counts(run_dir: Path) -> None:
    async def run() -> None:
        async with running(run_dir) as daemon:
            assert daemon.health.status() == "0 controllers up; 0 bdevs, 0 exports"
            for name in ("A", "B", "C"):
                params = {"name": name, "trtype": "user", "traddr": "/x", "dev_type": "blk"}
                await daemon.rpc.call("bdev_virtio_attach_controller", params)
            daemon.system.controllers.list()[2].state = State.RECONNECTING
            await daemon.rpc.call("nbd_create_export", {"bdev_name": "A"})
            assert daemon.health.status() == "2 controllers up, 1 reconnecting; 3 bdevs, 1 export"
            daemon.configuration.failed.append("c.json:1:1: no")
            assert daemon.health.status().endswith("1 export; 1 of the configuration failed: c.json:1:1: no")

    asyncio.run(run())


def test_the_watchdog_is_fed_only_while_every_poller_comes_round(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        with manager(f"{run_dir}/n") as heard:
            notifier = Notifier(environment(run_dir / "n", 8))
            async with running(run_dir) as daemon:
                beat = [time.monotonic_ns(), time.monotonic_ns()]
                daemon.system.pollers = [poller("poller_0", beat, 0), poller("poller_1", beat, 1)]
                service = Service(daemon, notifier)
                service.tell()
                assert "WATCHDOG=1" in said(heard)
                beat[1] -= int(5e9)
                for _ in range(3):
                    service.tell()
                assert "WATCHDOG=1" not in said(heard)
                beat[1] = time.monotonic_ns()
                service.tell()
                assert "WATCHDOG=1" in said(heard)
                beat[0] = 0  # not started yet
                service.tell()
                assert "WATCHDOG=1" in said(heard)
            notifier.close()

    asyncio.run(run())
    assert caplog.text.count("poller_1 has not come round for 5.0 s: the watchdog is no longer fed") == 1


def poller(name: str, beat: list[int], index: int) -> Any:
    return SimpleNamespace(name=name, stats=lambda: SimpleNamespace(heartbeat_ns=beat[index]))


def test_a_reload_is_told_from_its_beginning_to_its_end(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = run_dir / "c"
    config.write_text('{"subsystems": []}')

    async def run() -> None:
        with manager(f"{run_dir}/n") as heard:
            notifier = Notifier(environment(run_dir / "n"))
            async with running(run_dir, config=str(config)) as daemon:
                service = Service(daemon, notifier)
                await service.reload()
                assert said(heard) == []  # its start has not been told yet
                service.tell()
                said(heard)
                config.write_text("{")
                await service.reload()
                told = said(heard)
                assert (told[0], told[-1]) == ("RELOADING=1", "READY=1")
                assert "1 of the configuration failed" in next(line for line in told if line.startswith("STATUS="))
            notifier.close()

    asyncio.run(run())
    assert f"{config}:1:2: " in caplog.text


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
