"""What is saved is what was asked for, not what came of it on this machine and on this day."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.creates import CREATES, there
from tests.support.live import attach, disks, export, live, null
from virtiod.api.caller import Caller, Role
from virtiod.daemon.daemon import Daemon
from virtiod.rpc.methods import METHODS
from virtiod.system import SUBSYSTEMS
from virtiod.target.blk.device import DiskSpec
from virtiod.target.target import Target

# Of a null bdev its UUID and its block size are saved always: they are what the disk is.
ALWAYS = {"bdev_null_create": {"uuid", "block_size"}}


def saved(daemon: Daemon, method: str) -> list[dict[str, Any]]:
    calls = [call for name in SUBSYSTEMS for call in daemon.system.saved_calls(name)]
    return [dict(call.params) for call in calls if call.method == method]


async def make(daemon: Daemon, *calls: dict[str, Any]) -> None:
    for call in calls:
        answer = await daemon.rpc.handle({"id": 1, **call}, Caller("test", Role.ADMIN))
        assert isinstance(answer, dict)
        assert "result" in answer, answer


@pytest.mark.parametrize("method", CREATES)
@pytest.mark.parametrize("all_of_it", [True, False])
def test_each_call_is_saved_with_what_it_asked_for(run_dir: Path, method: str, all_of_it: bool) -> None:
    async def run() -> None:
        async with disks(run_dir / "d.sock"), live(run_dir, http=None) as daemon:
            await make(daemon, null("N1"))
            params = there(run_dir, CREATES[method][0])
            needed = {param.name for param in METHODS[method].params if param.required}
            asked = params if all_of_it else {name: value for name, value in params.items() if name in needed}
            await daemon.rpc.call(method, asked)
            always = set() if all_of_it else ALWAYS.get(method, set())
            found = {name: value for name, value in saved(daemon, method)[-1].items() if name not in always}
            assert found == asked

    asyncio.run(run())


def test_a_disk_gets_a_queue_for_each_core_that_there_is_now(run_dir: Path) -> None:
    state = run_dir / "state.json"

    async def run() -> None:
        target = Target({str(run_dir / "d.sock"): DiskSpec(size=1 << 20, memory=True, queues=4)})
        await target.start()
        try:
            async with live(run_dir, http=None, state=str(state), cpus=(-1,)) as daemon:
                await make(daemon, attach("V0", run_dir / "d.sock"))
            for cores in (1, 2, 1):
                async with live(run_dir, http=None, state=str(state), cpus=(-1,) * cores) as daemon:
                    (controller,) = daemon.system.controllers.list()
                    assert controller.vq_count == cores
        finally:
            await target.stop()

    asyncio.run(run())


def test_a_disk_that_could_not_be_written_may_be_writable_one_day(run_dir: Path) -> None:
    state = run_dir / "state.json"

    async def run() -> None:
        for read_only in (True, False):
            target = Target({str(run_dir / "d.sock"): DiskSpec(size=1 << 20, memory=True, read_only=read_only)})
            await target.start()
            async with live(run_dir, http=None, state=str(state)) as daemon:
                if read_only:
                    await make(daemon, attach("V0", run_dir / "d.sock"), export("V0"), export("V0"))
                (exported,) = daemon.system.exports.list()
                assert exported.read_only is read_only
            await target.stop()

    asyncio.run(run())


def test_an_export_by_uuid_is_of_that_disk_whatever_its_name(run_dir: Path) -> None:
    state = run_dir / "state.json"

    async def run() -> None:
        async with live(run_dir, http=None, state=str(state)) as daemon:
            await make(daemon, null("N0"), null("N1"))
            first, second = (bdev.uuid for bdev in daemon.system.bdevs.list())
            await make(daemon, export(first), export(second, name="other"))
        document = json.loads(state.read_text())
        for call in document["subsystems"][0]["config"]:
            if call["method"] == "bdev_null_create":  # as if the disks had come in another order
                call["params"]["name"] = {"N0": "N1", "N1": "N0"}[call["params"]["name"]]
        state.write_text(json.dumps(document))
        async with live(run_dir, http=None, state=str(state)) as daemon:
            exports = {one.name: one.bdev.uuid for one in daemon.system.exports.list()}
            assert exports == {first: first, "other": second}

    asyncio.run(run())


@pytest.mark.parametrize("params", [{"enable": False}, {"enable": False, "period_us": 100_000}])
def test_the_period_of_hotplug_is_saved_if_it_was_asked_for(run_dir: Path, params: dict[str, Any]) -> None:
    async def run() -> None:
        async with live(run_dir, http=None) as daemon:
            assert saved(daemon, "bdev_virtio_blk_set_hotplug") == []
            await daemon.rpc.call("bdev_virtio_blk_set_hotplug", params)
            assert saved(daemon, "bdev_virtio_blk_set_hotplug") == [params]

    asyncio.run(run())
