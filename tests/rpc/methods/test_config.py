"""The configuration file: what it accepts, and what it says to the rest."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import FakeSystem, running
from virtiod.config.document import Source, parse_config, read_config
from virtiod.core.errors import InvalidArgument, VirtiodError
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options


def document(*calls: Any, subsystem: str = "bdev") -> dict[str, Any]:
    return {"subsystems": [{"subsystem": subsystem, "config": list(calls)}]}


def attach(name: str, **more: Any) -> dict[str, Any]:
    params = {"name": name, "trtype": "user", "traddr": "/x.sock", "dev_type": "blk", **more}
    return {"method": "bdev_virtio_attach_controller", "params": params}


# ---- the file's form


def test_calls_come_in_their_order_with_batches_flattened() -> None:
    calls = parse_config(
        {
            "comment": "ignored",
            "subsystems": [
                {"subsystem": "keyring", "config": []},
                {"subsystem": "vmd", "config": None},
                {"subsystem": "bdev", "config": [{"method": "a"}, [{"method": "b", "params": {"x": 1}}]]},
            ],
        },
        Source("f"),
    )
    assert [(call.where, call.method, call.params) for call in calls] == [
        ("f: subsystems[2].config[0]", "a", {}),
        ("f: subsystems[2].config[1][0]", "b", {"x": 1}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "top level: must be an object"),
        ({}, "top level: has no 'subsystems'"),
        ({"subsystems": {}}, "subsystems: 'subsystems' must be an array"),
        ({"subsystems": [1]}, "subsystems[0]: must be an object"),
        ({"subsystems": [{}]}, "subsystems[0]: has no 'subsystem'"),
        ({"subsystems": [{"subsystem": "bdev", "config": {}}]}, "subsystems[0].config: 'config' must be an array"),
        (document(1), "subsystems[0].config[0]: must be an object"),
        (document([{}]), "subsystems[0].config[0][0]: has no 'method'"),
        (document({"method": 1}), "'method' must be a string"),
        (document({"method": "a", "params": []}), ""),
        (document({"method": "a", "params": [1]}), "config[0].params: 'params' must be an object"),
        (document({"method": "a", "parms": {}}), "config[0].parms: unknown member 'parms'"),
    ],
)
def test_a_form_that_is_wrong_is_named_by_its_path(content: Any, message: str) -> None:
    if not message:
        parse_config(content, Source("f"))
        return
    with pytest.raises(InvalidArgument) as caught:
        parse_config(content, Source("f"))
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    with pytest.raises(InvalidArgument, match=r"c\.json: No such file"):
        read_config(str(file))
    file.write_text('{\n  "subsystems": [\n    {"subsystem": "bdev",}\n  ]\n}')
    with pytest.raises(InvalidArgument, match=r"c\.json:3:\d+: "):
        read_config(str(file))
    file.write_bytes(b'{"subsystems": ["\xff"]}')
    with pytest.raises(InvalidArgument, match=r"c\.json: .*codec can't decode"):
        read_config(str(file))
    file.write_text("[" * 100_000)
    with pytest.raises(InvalidArgument, match=r"c\.json: .*recursion"):
        read_config(str(file))


# ---- applied at start


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
    calls = [attach("B0"), {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 1}}, attach("B1")]
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


# ---- start and stop


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
