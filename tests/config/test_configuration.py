"""Configuration files in a daemon: devices that come late, reload, state that survives."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import attach, disks, export, live, names, null, states, write_config
from tests.support.waiting import LOAD_S, until
from virtiod.api.caller import Caller, Role
from virtiod.api.errors import NOT_SAVED, RpcError
from virtiod.controllers.controller import Controller, State
from virtiod.core import threads
from virtiod.core.errors import InvalidArgument
from virtiod.daemon.daemon import Daemon
from virtiod.load.workload import Workload

# ---- devices that come late


def test_a_device_that_is_not_there_yet_is_attached_when_it_comes(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = run_dir / "d.sock"
    config = write_config(run_dir / "c", attach("V0", disk), null("N0"), export("V0", name="disk"), export("N0"))

    async def run() -> None:
        async with live(run_dir, config) as daemon:
            assert names(daemon) == (["N0"], ["N0"])
            assert states(daemon) == {"V0": "attaching"}
            assert daemon.configuration.waiting == 1
            async with disks(disk):
                await until(lambda: names(daemon) == (["N0", "V0"], ["N0", "disk"]))
                # The export is there before the call that makes it has returned, and while the attach may go on.
                await until(lambda: (states(daemon), daemon.configuration.waiting) == ({"V0": "up"}, 0))
                await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})

    asyncio.run(run())
    assert caplog.text.count("No such file or directory; it is attached when the device appears") == 1


def test_a_device_that_never_comes_can_be_detached(run_dir: Path) -> None:
    config = write_config(run_dir / "c", attach("V0", run_dir / "no.sock", vq_size=64))

    async def run() -> None:
        async with live(run_dir, config) as daemon:
            (saved,) = (
                call
                for call in await daemon.rpc.call("framework_get_config", {"name": "bdev"})
                if call["method"] == "bdev_virtio_attach_controller"
            )
            assert saved == attach("V0", run_dir / "no.sock", vq_size=64)
            with pytest.raises(RpcError, match="controller 'V0' already exists, with vq_size 64, not 128"):
                await daemon.rpc.call("bdev_virtio_attach_controller", {**saved["params"], "vq_size": 128})
            assert await daemon.rpc.call("bdev_virtio_attach_controller", saved["params"]) == []
            await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})
            assert states(daemon) == {}

    asyncio.run(run())


def test_by_rpc_an_absent_device_is_waited_for_only_if_asked(run_dir: Path) -> None:
    params = attach("V0", run_dir / "d.sock")["params"]

    async def run() -> None:
        async with live(run_dir) as daemon:
            with pytest.raises(RpcError, match="No such file"):
                await daemon.rpc.call("bdev_virtio_attach_controller", params)
            assert states(daemon) == {}
            assert await daemon.rpc.call("bdev_virtio_attach_controller", {**params, "wait_for_device": True}) == []
            async with disks(run_dir / "d.sock"):
                await until(lambda: states(daemon) == {"V0": "up"})
                await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})

    asyncio.run(run())


def test_a_controller_that_waits_for_its_device_is_attaching_between_two_attempts_too(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[State] = []
    shown: list[str] = []
    saved: list[Mapping[str, object]] = []
    enter = Controller._enter

    async def run() -> None:
        async with live(run_dir) as daemon:

            def note(controller: Controller[Any], state: State, why: str = "") -> None:
                enter(controller, state, why)
                entered.append(state)
                shown.extend(states(daemon).values())
                assert daemon.system.controllers.awaits_device
                saved.extend(call.params for call in daemon.system.controllers.saved_calls())

            monkeypatch.setattr(Controller, "_enter", note)
            params = attach("V0", run_dir / "d.sock", vq_size=64)["params"]
            waits = {**params, "wait_for_device": True}
            assert await daemon.rpc.call("bdev_virtio_attach_controller", waits) == []
            await until(lambda: entered.count(State.GONE) > 2)
            monkeypatch.undo()
            await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})

    asyncio.run(run())
    assert set(shown) == {"attaching"}
    assert all(call == attach("V0", run_dir / "d.sock", vq_size=64)["params"] for call in saved) and saved


# ---- reload


def test_a_reload_does_what_changed_and_nothing_else(run_dir: Path) -> None:
    stays, goes, comes, by_rpc = (run_dir / f"{name}.sock" for name in ("stays", "goes", "comes", "rpc"))
    config = write_config(run_dir / "c", attach("S", stays), attach("G", goes), null("N0"), export("S"), export("G"))

    async def run() -> None:
        async with disks(stays, goes, comes, by_rpc), live(run_dir, config) as daemon:
            await daemon.rpc.call("bdev_virtio_attach_controller", attach("R", by_rpc)["params"])
            load = asyncio.create_task(daemon.system.load.run(["S"], Workload("verify", queue_depth=4, time_s=LOAD_S)))
            await until(lambda: daemon.system.bdevs.get("S").stats().ops["read"].completed > 100)
            write_config(config, attach("S", stays), null("N0", 4096), export("S"), attach("C", comes), export("C"))
            changes = await daemon.rpc.call("virtiod_reload_config", {})
            assert {kind: sorted(done) for kind, done in changes.items()} == {
                "created": ["C", "C", "N0"],
                "deleted": ["G", "G", "N0"],
                "called": [],
            }
            assert names(daemon) == (["C", "N0", "R", "S"], ["C", "S"])
            assert daemon.system.bdevs.get("N0").num_blocks == 4096
            before = daemon.system.bdevs.get("S").stats().ops["read"].completed
            await until(lambda: daemon.system.bdevs.get("S").stats().ops["read"].completed > before + 100)
            assert await daemon.rpc.call("virtiod_reload_config", {}) == {"created": [], "deleted": [], "called": []}
            await daemon.system.load.stop()
            (result,) = (await load).results
            assert (result.io_failed, result.io_mismatched) == (0, 0)

    asyncio.run(run())


def test_what_fails_in_a_reload_is_told_and_the_rest_is_done(run_dir: Path) -> None:
    config = write_config(run_dir / "c", null("N0"), null("N1"))

    async def run() -> None:
        async with live(run_dir, config) as daemon:
            write_config(config, null("N0", -1), null("N1"), null("N2"), export("nothing"))
            with pytest.raises(RpcError) as caught:
                await daemon.rpc.call("virtiod_reload_config", {})
            first, *lines = caught.value.message.splitlines()
            assert first == "2 failed:"
            assert "params.num_blocks (bdev_null_create): 'num_blocks' must be from 1" in lines[0]
            assert "(nbd_create_export): bdev 'nothing' does not exist" in lines[1]
            assert names(daemon) == (["N0", "N1", "N2"], [])  # N0 stays as it was while its new entry is wrong
            assert len(daemon.configuration.failed) == 2
            config.write_text('{"subsystems": [}')
            with pytest.raises(RpcError, match=r"c:1:17: "):
                await daemon.rpc.call("virtiod_reload_config", {})
            assert names(daemon) == (["N0", "N1", "N2"], [])
            write_config(config, null("N1"))
            await daemon.rpc.call("virtiod_reload_config", {})
            assert names(daemon) == (["N1"], [])
            assert daemon.configuration.failed == []

    asyncio.run(run())


def test_settings_are_called_again_only_if_they_changed(run_dir: Path) -> None:
    def flag(name: str) -> dict[str, Any]:
        return {"method": "log_set_flag", "params": {"flag": name}}

    config = write_config(run_dir / "c", flag("bdev"), flag("rpc"))

    async def run() -> None:
        async with live(run_dir, config) as daemon:
            assert (await daemon.rpc.call("virtiod_reload_config", {}))["called"] == []
            write_config(config, flag("bdev"), flag("http"))
            assert (await daemon.rpc.call("virtiod_reload_config", {}))["called"] == ["log_set_flag"]
            assert daemon.logs.flags()["http"]
            options = {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 7}}
            write_config(config, flag("bdev"), flag("http"), options)
            with pytest.raises(RpcError, match="may only be called before framework_start_init"):
                await daemon.rpc.call("virtiod_reload_config", {})

    asyncio.run(run())


def test_a_reload_reaches_what_still_waits(run_dir: Path) -> None:
    disk = run_dir / "d.sock"
    config = write_config(run_dir / "c", attach("V0", run_dir / "wrong.sock"), export("V0"))

    async def run() -> None:
        async with disks(disk), live(run_dir, config) as daemon:
            write_config(config, attach("V0", disk), export("V0", name="other"))
            await daemon.rpc.call("virtiod_reload_config", {})
            assert (states(daemon), names(daemon)) == ({"V0": "up"}, (["V0"], ["other"]))
            assert daemon.configuration.waiting == 0
            await daemon.rpc.call("bdev_virtio_detach_controller", {"name": "V0"})

    asyncio.run(run())


def test_other_files_are_read_again_too(run_dir: Path) -> None:
    def broken() -> None:
        raise InvalidArgument("tokens: line 1: no")

    async def run() -> None:
        async with live(run_dir) as daemon:
            assert await daemon.rpc.call("virtiod_reload_config", {}) == {"created": [], "deleted": [], "called": []}
            daemon.configuration.also_read.append(broken)
            with pytest.raises(RpcError, match="1 failed:\ntokens: line 1: no"):
                await daemon.rpc.call("virtiod_reload_config", {})

    asyncio.run(run())


@pytest.mark.parametrize("which", ["the configuration", "other files"])
def test_a_file_that_hangs_fails_a_reload_and_holds_up_no_other_call(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    config, hangs = write_config(run_dir / "c", null("N0")), run_dir / "fifo"
    os.mkfifo(hangs)

    def read_other_files() -> None:
        hangs.read_text()

    async def run() -> None:
        async with live(run_dir, config) as daemon:
            monkeypatch.setattr(threads, "READ_S", 0.2)
            if which == "other files":
                daemon.configuration.also_read.append(read_other_files)
            else:
                hangs.replace(config)
            reload = asyncio.ensure_future(code_of(daemon, {"method": "virtiod_reload_config", "params": {}}))
            assert await code_of(daemon, {"method": "spdk_get_version", "params": {}}) == (0, "")
            assert not reload.done()
            assert "not done within 0.2 s, the kernel still works on it" in (await reload)[1]
            assert names(daemon) == (["N0"], [])

    asyncio.run(run())
    (config if which != "other files" else hangs).write_text("")  # lets the thread end


# ---- state


async def by_rpc(daemon: Daemon, *calls: dict[str, Any]) -> None:
    for call in calls:
        answer = await daemon.rpc.handle({"id": 1, **call}, Caller("test", Role.ADMIN))
        assert isinstance(answer, dict)
        assert "result" in answer, answer


def in_state(path: Path) -> list[str]:
    """Names of what the state file would create."""
    calls = [call for part in json.loads(path.read_text())["subsystems"] for call in part["config"]]
    found = [call["params"] for call in calls if call["method"] in {"bdev_null_create", "nbd_create_export"}]
    found += [call["params"] for call in calls if call["method"] == "bdev_virtio_attach_controller"]
    return [params.get("name") or params["bdev_name"] for params in found]


def test_what_rpc_made_comes_back(run_dir: Path) -> None:
    state, disk = run_dir / "state.json", run_dir / "d.sock"

    async def run() -> None:
        async with disks(disk):
            async with live(run_dir, state=str(state)) as daemon:
                await by_rpc(daemon, attach("V0", disk), null("N0"), null("N1"), export("V0", read_only=True))
                await by_rpc(daemon, {"method": "bdev_null_delete", "params": {"name": "N1"}})
                assert sorted(in_state(state)) == ["N0", "V0", "V0"]
                uuid = daemon.system.bdevs.get("N0").uuid
            async with live(run_dir, state=str(state)) as daemon:
                assert (states(daemon), names(daemon)) == ({"V0": "up"}, (["N0", "V0"], ["V0"]))
                assert daemon.system.exports.list()[0].read_only
                assert daemon.system.bdevs.get("N0").uuid == uuid
        assert state.stat().st_mode & 0o777 == 0o600

    asyncio.run(run())


def test_the_state_holds_what_is_not_the_files(run_dir: Path) -> None:
    state = run_dir / "state.json"
    config = write_config(run_dir / "c", null("F0"), null("F1"))

    async def run() -> None:
        async with live(run_dir, config, state=str(state)) as daemon:
            await by_rpc(daemon, null("R0"))
            await by_rpc(daemon, {"method": "bdev_null_delete", "params": {"name": "F1"}})
            assert in_state(state) == ["R0"]
        write_config(config, null("F0", 99), null("R0", 77))
        async with live(run_dir, config, state=str(state)) as daemon:  # the file counts
            assert [(bdev.name, bdev.num_blocks) for bdev in daemon.system.bdevs.list()] == [("F0", 99), ("R0", 77)]
            assert in_state(state) == []

    asyncio.run(run())


def test_an_entry_of_the_state_that_fails_is_kept_and_ends_nothing(run_dir: Path) -> None:
    state = run_dir / "state.json"
    write_config(state, null("N0"), export("gone"))

    async def run() -> None:
        async with live(run_dir, state=str(state)) as daemon:
            assert names(daemon) == (["N0"], [])
            assert len(daemon.configuration.failed) == 1
            await by_rpc(daemon, null("N1"))
        assert in_state(state) == ["N0", "N1", "gone"]

    asyncio.run(run())


def test_the_state_of_a_device_that_is_waited_for_is_kept(run_dir: Path) -> None:
    state = run_dir / "state.json"
    write_config(state, attach("V0", run_dir / "no.sock", vq_size=128), export("V0"))

    async def run() -> None:
        async with live(run_dir, state=str(state)) as daemon:
            assert states(daemon) == {"V0": "attaching"}
            await by_rpc(daemon, null("N1"))
        assert in_state(state) == ["N1", "V0", "V0"]
        assert '"vq_size": 128' in state.read_text()

    asyncio.run(run())


def test_a_state_file_without_a_directory_ends_the_start(run_dir: Path) -> None:
    async def run() -> None:
        with pytest.raises(InvalidArgument, match=r"--state .*is not a directory that can be written to"):
            async with live(run_dir, state=str(run_dir / "none" / "state.json")):
                pass

    asyncio.run(run())


def test_a_state_that_can_not_be_read_ends_the_start_and_stays(run_dir: Path) -> None:
    state = run_dir / "state.json"
    state.write_text('{"subsystems": ')

    async def run() -> None:
        with pytest.raises(InvalidArgument, match=r"state\.json:1:\d+: "):
            async with live(run_dir, state=str(state)):
                pass

    asyncio.run(run())
    assert state.read_text() == '{"subsystems": '


async def code_of(daemon: Daemon, call: dict[str, Any]) -> tuple[int, str]:
    """Code and message of the error that a call is answered with; 0 for none."""
    answer = await daemon.rpc.handle({"id": 1, **call}, Caller("test", Role.ADMIN))
    assert isinstance(answer, dict)
    error = answer.get("error", {"code": 0, "message": ""})
    assert isinstance(error, dict)
    return error["code"], error["message"]


def test_a_change_that_can_not_be_saved_is_made_and_answered_as_not_saved(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = run_dir / "state.json"
    flag = {"method": "log_set_flag", "params": {"flag": "rpc"}}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        async with live(run_dir, state=str(state)) as daemon:
            assert daemon.health.unsaved() == ""
            before = state.read_text()
            monkeypatch.setattr(os, "fsync", full)
            answers = await asyncio.gather(*(code_of(daemon, null(name)) for name in ("N0", "N1")))
            why = f"the change was made, but not saved: state file {state}: No space left on device"
            assert answers == [(NOT_SAVED, why)] * 2
            assert names(daemon) == (["N0", "N1"], [])
            assert state.read_text() == before
            assert daemon.health.unsaved() == f"state file {state}: No space left on device"
            assert "not saved: state file" in daemon.health.status()
            assert daemon.health.problem() == ""
            assert await code_of(daemon, flag) == (0, "")  # which has nothing to do with the state
            assert (await code_of(daemon, null("N2")))[0] == NOT_SAVED
            monkeypatch.undo()
            await by_rpc(daemon, flag)  # it is tried again at each occasion
            assert in_state(state) == ["N0", "N1", "N2"]
            assert daemon.health.unsaved() == ""

    asyncio.run(run())
    assert f"state file {state}: No space left on device" in caplog.text
    assert f"state file {state}: written again" in caplog.text


def test_a_change_is_saved_though_its_client_went_away(run_dir: Path) -> None:
    state = run_dir / "state.json"

    async def run() -> None:
        async with live(run_dir, state=str(state)) as daemon:
            call = asyncio.ensure_future(code_of(daemon, null("N0")))
            await until(lambda: names(daemon) == (["N0"], []))
            call.cancel()
            await until(lambda: in_state(state) == ["N0"])

    asyncio.run(run())
