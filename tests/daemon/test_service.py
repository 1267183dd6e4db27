"""What the service manager is told of a daemon's life, from its start to its end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.daemon import running
from tests.support.service_manager import environment, manager, said
from virtiod.controllers.controller import State
from virtiod.daemon.service import Service
from virtiod.daemon.systemd import Notifier
from virtiod.poller.poller import Poller, PollerStats


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
            daemon.fakes.fake_controllers.list()[2].shown_state = State.RECONNECTING
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
    assert caplog.text.count("poller_1 has not completed a round for 5.0 s: the watchdog is fed no more") == 1


def poller(name: str, beat: list[int], index: int) -> Poller:
    stats = PollerStats(0, 0, 0, 0, 0, 0, 0)
    fake = SimpleNamespace(name=name, stats=lambda: stats._replace(heartbeat_ns=beat[index]))
    return cast(Poller, fake)


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
