"""How a daemon starts, with a configuration file or without, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.config.documents import attach, document
from tests.support.daemon import FakeSystem, running
from virtiod.core.errors import VirtiodError
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options


def start_with(run_dir: Path, content: Any, **options: Any) -> list[str]:
    """The bdevs of a daemon that started with this file."""
    file = run_dir / "c.json"
    file.write_text(json.dumps(content))

    async def run() -> list[str]:
        async with running(run_dir, config=str(file), **options) as daemon:
            return [bdev.name for bdev in daemon.system.bdevs.list()]

    try:
        return asyncio.run(run())
    finally:
        file.unlink()


def test_the_file_makes_the_calls_of_startup_first(run_dir: Path) -> None:
    calls = [
        attach("B0"),
        {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 1}},
        attach("B1", traddr="/y.sock"),
    ]
    assert start_with(run_dir, document(*calls)) == ["B0", "B1"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (attach("B0", traddr="/refused"), "connect to /refused: Connection refused"),
        (attach("B0", speed=1), "unknown parameter 'speed'"),
        ({"method": "bdev_malloc_create", "params": {}}, "there is no method 'bdev_malloc_create'"),
        (
            {"method": "bdev_set_options", "params": {"bdev_io_pool_size": "x"}},
            "'bdev_io_pool_size' must be an integer",
        ),
    ],
)
def test_a_call_that_fails_is_named_and_nothing_is_left_behind(run_dir: Path, call: Any, message: str) -> None:
    with pytest.raises(VirtiodError) as caught:
        start_with(run_dir, document(attach("A"), call))
    assert re.search(rf"c\.json:1:\d+: subsystems\[0\]\.config\[1\][.\w]* \({call['method']}\): ", str(caught.value))
    assert message in str(caught.value)
    assert list(run_dir.iterdir()) == []


def test_with_wait_for_rpc_the_file_goes_on_when_initialisation_begins(run_dir: Path) -> None:
    file = run_dir / "c.json"
    file.write_text(json.dumps(document({"method": "bdev_set_options", "params": {}}, attach("B0"))))

    async def run() -> None:
        async with running(run_dir, config=str(file), wait_for_rpc=True) as daemon:
            assert daemon.system.bdevs.list() == []
            await daemon.rpc.call("framework_start_init", {})
            assert [bdev.name for bdev in daemon.system.bdevs.list()] == ["B0"]

    asyncio.run(run())


def test_a_start_that_fails_goes_back_the_way_it_came(run_dir: Path) -> None:
    system = FakeSystem()
    system.fail_start = VirtiodError("no")

    async def run() -> None:
        with pytest.raises(VirtiodError, match="no"):
            async with running(run_dir, system=system):
                pass

    asyncio.run(run())
    assert system.ended == ["exports", "system"]
    assert list(run_dir.iterdir()) == []


def test_what_hangs_at_the_end_is_skipped_at_the_deadline_and_the_rest_ends(run_dir: Path) -> None:
    system = FakeSystem()
    system.fake_exports.hang = True

    async def run() -> None:
        daemon = Daemon(Options(rpc_socket=str(run_dir / "rpc")), build=lambda _: system)
        await daemon.start()
        with pytest.raises(VirtiodError, match=r"did not end in order: not within 0\.1 s"):
            await daemon.stop(0.1)

    asyncio.run(run())
    assert system.ended == ["exports", "system"]
    assert list(run_dir.iterdir()) == []


def test_hurrying_ends_the_wait(run_dir: Path) -> None:
    system = FakeSystem()
    system.fake_exports.hang = True

    async def run() -> None:
        daemon = Daemon(Options(rpc_socket=str(run_dir / "rpc")), build=lambda _: system)
        await daemon.start()
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(daemon.stop(3600))
            await asyncio.sleep(0)
            daemon.hurry()
            with pytest.raises(VirtiodError):
                await stopping

    asyncio.run(run())
    assert system.ended == ["exports", "system"]
