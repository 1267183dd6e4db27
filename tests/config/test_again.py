"""A call that creates what exists already: it succeeds if it asks for just that, and says what differs otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.config.creates import ATTACH, CREATES, there
from tests.support.live import disks, live, write_config
from virtiod.api.errors import RpcError
from virtiod.config.document import identity
from virtiod.controllers.controller import Controller, State
from virtiod.daemon.daemon import Daemon
from virtiod.exports.nbd.export import NbdExport
from virtiod.rpc.methods import METHODS
from virtiod.system import SUBSYSTEMS

OPTIONAL = {
    "bdev_null_create": {"uuid"},
    "bdev_virtio_attach_controller": {"vq_count", "vq_size"},
}


@asynccontextmanager
async def daemon_with_disk(run_dir: Path) -> AsyncIterator[Daemon]:
    """Its disk has one queue."""
    async with disks(run_dir / "d.sock"), live(run_dir, http=None, nbd_socket=str(run_dir / "nbd")) as daemon:
        for name in ("N1", "N2"):
            await daemon.rpc.call("bdev_null_create", {"name": name, "num_blocks": 8})
        yield daemon


def state(daemon: Daemon) -> list[Any]:
    return [call for name in SUBSYSTEMS for call in daemon.system.saved_calls(name)]


def test_all_methods_that_create_something_are_here() -> None:
    assert CREATES.keys() == {name for name, method in METHODS.items() if method.undo}


@pytest.mark.parametrize("method", CREATES)
def test_what_is_created_again_as_it_is_stays_so(run_dir: Path, method: str) -> None:
    async def run() -> None:
        async with daemon_with_disk(run_dir) as daemon:
            params = there(run_dir, CREATES[method][0])
            first = await daemon.rpc.call(method, params)
            before = state(daemon)
            assert await daemon.rpc.call(method, params) == first
            # What it would choose by itself may be as it is; and so it may be as a saved configuration has it.
            few = {name: value for name, value in params.items() if name not in OPTIONAL.get(method, set())}
            assert await daemon.rpc.call(method, few) == first
            (saved,) = (call for call in before if identity(call.method, call.params) == identity(method, params))
            assert await daemon.rpc.call(method, saved.params) == first
            assert state(daemon) == before
            await daemon.rpc.call(METHODS[method].undo, {"name": params["name"]})
            assert len(state(daemon)) == len(before) - 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method, (_, others) in CREATES.items() for name in others]
)
def test_what_differs_is_named_and_nothing_changes(run_dir: Path, method: str, name: str) -> None:
    async def run() -> None:
        async with daemon_with_disk(run_dir) as daemon:
            params, others = (there(run_dir, one) for one in CREATES[method])
            await daemon.rpc.call(method, params)
            before = state(daemon)
            changed = {**params, name: others[name]}
            if changed.get("trtype") == "pci":
                changed = {"name": "V0", "trtype": "pci", "traddr": "0000:00:05.0", "dev_type": "blk"}
            with pytest.raises(RpcError, match=rf"already exists, with .*\b{name} .*, not ") as caught:
                await daemon.rpc.call(method, changed)
            assert caught.value.code == (-32602 if method == "bdev_virtio_attach_controller" else -17)
            assert state(daemon) == before

    asyncio.run(run())


def test_what_is_being_attached_or_ended_does_not_exist_yet_or_any_more(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Controller._enter
    connect = Controller._connect

    async def run() -> None:
        entered = {"attaching": asyncio.Event(), "detaching": asyncio.Event()}

        async def connecting(controller: Controller[Any]) -> None:
            entered["attaching"].set()
            await connect(controller)

        def entering(controller: Controller[Any], state: State, why: str = "") -> None:
            enter(controller, state, why)
            if state in entered:
                entered[state].set()

        monkeypatch.setattr(Controller, "_connect", connecting)
        monkeypatch.setattr(Controller, "_enter", entering)
        async with daemon_with_disk(run_dir) as daemon:
            params = there(run_dir, ATTACH)
            attaching = asyncio.create_task(daemon.rpc.call("bdev_virtio_attach_controller", params))
            await entered["attaching"].wait()
            with pytest.raises(RpcError, match="controller 'V0' already exists, and is attaching"):
                await daemon.rpc.call("bdev_virtio_attach_controller", params)
            assert await attaching == ["V0"]
            detaching = asyncio.create_task(daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"}))
            await entered["detaching"].wait()
            with pytest.raises(RpcError, match="controller 'V0' already exists, and is detaching"):
                await daemon.rpc.call("bdev_virtio_attach_controller", params)
            assert await detaching is True

    asyncio.run(run())


def test_what_is_just_being_deleted_does_not_exist_any_more(run_dir: Path) -> None:
    async def run() -> None:
        async with daemon_with_disk(run_dir) as daemon:
            params = CREATES["nbd_create_export"][0]
            await daemon.rpc.call("nbd_create_export", params)
            (export,) = daemon.system.exports.list()
            assert isinstance(export, NbdExport)
            export.closing = True
            with pytest.raises(RpcError, match="NBD export 'disk' already exists, and is ending"):
                await daemon.rpc.call("nbd_create_export", params)
            bdev = daemon.system.bdevs.get("N2")
            bdev.removing = True
            with pytest.raises(RpcError, match=r"bdev 'N2' already exists$"):
                await daemon.rpc.call("bdev_null_create", {"name": "N2", "num_blocks": 8})
            export.closing = bdev.removing = False

    asyncio.run(run())


def test_another_kind_of_bdev_of_that_name_is_another(run_dir: Path) -> None:
    async def run() -> None:
        async with daemon_with_disk(run_dir) as daemon:
            await daemon.rpc.call("bdev_virtio_attach_controller", there(run_dir, ATTACH))
            bdev = daemon.system.bdevs.get("V0")
            with pytest.raises(RpcError, match=r"bdev 'V0' already exists$"):
                await daemon.rpc.call("bdev_null_create", {"name": "V0", "num_blocks": bdev.num_blocks})
            with pytest.raises(RpcError, match=r"bdev 'N1' already exists$"):
                await daemon.rpc.call("bdev_virtio_attach_controller", {**there(run_dir, ATTACH), "name": "N1"})

    asyncio.run(run())


def entry(method: str, **params: Any) -> dict[str, Any]:
    return {"method": method, "params": params}


def test_a_reload_says_what_exists_otherwise_than_the_file_has_it(run_dir: Path) -> None:
    file = write_config(run_dir / "c")

    async def run() -> None:
        async with live(run_dir, file, http=None) as daemon:
            for name in ("N0", "N1"):
                await daemon.rpc.call("bdev_null_create", {"name": name, "num_blocks": 8})
            write_config(
                file,
                entry("bdev_null_create", name="N0", num_blocks=8),
                entry("bdev_null_create", name="N1", num_blocks=16),
            )
            with pytest.raises(RpcError, match="bdev 'N1' already exists, with num_blocks 8, not 16"):
                await daemon.rpc.call("virtiod_reload_config", {})
            assert [bdev.num_blocks for bdev in daemon.system.bdevs.list()] == [8, 8]
            write_config(file, entry("bdev_null_create", name="N0", num_blocks=8))
            answer = await daemon.rpc.call("virtiod_reload_config", {})
            assert answer == {"created": [], "deleted": [], "called": []}
            assert [bdev.name for bdev in daemon.system.bdevs.list()] == ["N0", "N1"]
            write_config(file)
            answer = await daemon.rpc.call("virtiod_reload_config", {})
            assert answer["deleted"] == ["N0"], "it was the file's, too"

    asyncio.run(run())
