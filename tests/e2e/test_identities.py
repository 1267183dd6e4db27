"""A bdev's name, UUID and aliases find that bdev and no other, also where a unit is seen on several paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scsi_host import scsi_host
from tests.support.process import Daemon, RpcFailure, daemon, target
from tests.support.spdk_client import Outcome
from tests.support.waiting import wait_until

Rpc = Callable[..., Outcome]

UUID = "0b25d5a4-5a1b-4a0e-a1d8-1f1f0b0a0c0d"
SPELLINGS = [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}"]
LUNS = "0:0=null:16M,3:1=null:8M"  # whose serials are the same in each target


def refused(virtiod: Daemon, method: str, **params: Any) -> tuple[int, str]:
    with pytest.raises(RpcFailure) as caught:
        virtiod.call(method, **params)
    return caught.value.code, caught.value.message


def bdevs(virtiod: Daemon) -> dict[str, dict[str, Any]]:
    """All bdevs by name; each of their identities finds only that bdev, by every kind of method."""
    found = {bdev["name"]: bdev for bdev in virtiod.call("bdev_get_bdevs")}
    identities = [{bdev["name"], bdev["uuid"], *bdev["aliases"]} for bdev in found.values()]
    assert sum(map(len, identities)) == len(set().union(*identities)), found
    for name, bdev in found.items():
        for identity in (name, bdev["uuid"], bdev["uuid"].upper(), *bdev["aliases"]):
            assert [one["name"] for one in virtiod.call("bdev_get_bdevs", name=identity)] == [name]
            assert [one["name"] for one in virtiod.call("bdev_get_iostat", names=[identity])["bdevs"]] == [name]
            export = virtiod.call("nbd_create_export", bdev_name=identity)
            assert (export["name"], export["bdev_name"]) == (identity, name)
            virtiod.call("nbd_delete_export", name=identity)
    return found


def names(virtiod: Daemon) -> list[str]:
    return [bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")]


def paths(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """By bdev: the other paths to its unit."""
    return {name: bdev["driver_specific"]["scsi"].get("other_paths", []) for name, bdev in found.items()}


def aliased(found: dict[str, dict[str, Any]]) -> list[str]:
    """The bdevs that have an alias."""
    return sorted(name for name, bdev in found.items() if bdev["aliases"])


def test_a_uuid_is_taken_once_however_it_is_spelt(run_dir: Path, rpc: Rpc) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=8, uuid=UUID.upper())
        for spelt in SPELLINGS:
            code, message = refused(virtiod, "bdev_null_create", name="N1", num_blocks=8, uuid=spelt)
            assert (code, message) == (-17, f"'{UUID}' is the UUID of bdev 'N0' already")
        for name in (UUID, UUID.upper()):
            code, message = refused(virtiod, "bdev_null_create", name=name, num_blocks=8)
            assert (code, message) == (-17, f"'{name}' is the UUID of bdev 'N0' already")
        assert rpc("bdev_get_bdevs", "-b", UUID.upper()).json[0]["name"] == "N0"
        named = "11111111-5A1B-4A0E-A1D8-1F1F0B0A0C0D"
        virtiod.call("bdev_null_create", name=named, num_blocks=8)
        code, message = refused(virtiod, "bdev_null_create", name="N1", num_blocks=8, uuid=named)
        assert (code, message) == (-17, f"'{named.lower()}' is the name of bdev '{named}' already")
        for number in range(2):  # as in SPDK, the nil UUID is none
            virtiod.call("bdev_null_create", name=f"nil{number}", num_blocks=8, uuid="0" * 32)
        assert sorted(bdevs(virtiod)) == sorted(["N0", named, "nil0", "nil1"])


def test_a_configuration_with_a_uuid_twice_is_refused_and_so_is_saved_state(run_dir: Path) -> None:
    creates = [
        {"method": "bdev_null_create", "params": {"name": f"N{n}", "num_blocks": 8, "uuid": spelt}}
        for n, spelt in enumerate((UUID, UUID.upper()))
    ]
    file = run_dir / "twice.json"
    file.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": creates}]}))
    failing = Daemon(run_dir, "-c", file)
    try:
        wait_until(lambda: failing.process.poll() is not None, "the daemon to refuse")
        assert f"(bdev_null_create): '{UUID.upper()}' is taken by {file}:1:" in failing.log.read_text()
    finally:
        failing.stop()
    with daemon(run_dir, "--state", file) as virtiod:
        assert list(bdevs(virtiod)) == ["N0"]
        assert f"config[1] (bdev_null_create): '{UUID}' is the UUID of bdev 'N0' already" in virtiod.log.read_text()


def test_an_export_of_a_bdev_by_its_uuid_is_the_same_one_for_configuration_and_state(run_dir: Path) -> None:
    file, state = run_dir / "config.json", run_dir / "state.json"
    create = {"method": "bdev_null_create", "params": {"name": "N0", "num_blocks": 8, "uuid": UUID}}

    def write(*exports: str) -> None:
        config = [{"method": "nbd_create_export", "params": {"bdev_name": name}} for name in exports]
        subsystems = [{"subsystem": "bdev", "config": [create]}, {"subsystem": "nbd", "config": config}]
        file.write_text(json.dumps({"subsystems": subsystems}))

    write(UUID)
    for _ in range(2):
        with daemon(run_dir, "-c", file, "--state", state) as virtiod:
            assert [export["name"] for export in virtiod.call("nbd_get_exports")] == [UUID]
            assert " ERROR " not in virtiod.log.read_text()
            nothing: dict[str, list[str]] = {"created": [], "deleted": [], "called": []}
            assert virtiod.call("virtiod_reload_config") == nothing
            write("N0")
            assert virtiod.call("virtiod_reload_config") == {"created": ["N0"], "deleted": [UUID], "called": []}
            write(UUID)


def test_one_load_of_a_bdev_runs_however_often_it_is_named(run_dir: Path) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=2048, uuid=UUID)
        wanted = ["N0", UUID, UUID.upper(), "N0"]
        load = virtiod.call("perform_tests", bdevs=wanted, rw="randread", total_bytes=1 << 20)
        assert [result["job"] for result in load["results"]] == ["N0"]


def test_a_unit_on_two_paths_is_found_by_its_own_name_on_the_first_only(run_dir: Path) -> None:
    with (
        target(run_dir, "--scsi", LUNS, name="a") as left,
        target(run_dir, "--scsi", LUNS, name="b") as right,
        daemon(run_dir) as virtiod,
    ):
        virtiod.attach_scsi(left.socket, "S0")
        alone = bdevs(virtiod)
        assert (aliased(alone), paths(alone)) == (["S0t0", "S0t3l1"], {"S0t0": [], "S0t3l1": []})
        virtiod.attach_scsi(right.socket, "S1")
        both = bdevs(virtiod)
        assert aliased(both) == ["S0t0", "S0t3l1"]
        assert paths(both) == {"S0t0": ["S1t0"], "S0t3l1": ["S1t3l1"], "S1t0": ["S0t0"], "S1t3l1": ["S0t3l1"]}
        assert {name: both[name]["uuid"] for name in alone} == {name: bdev["uuid"] for name, bdev in alone.items()}
        log = virtiod.log.read_text()
        assert "controller S1: bdev S1t0 is another path to the unit of S0t0" in log
        (alias,) = both["S0t0"]["aliases"]
        assert f"controller S1: bdev S1t0 is not found by {alias}, which is bdev S0t0" in log

        # The second keeps what it has, whatever the first does.
        virtiod.call("bdev_virtio_detach_controller", name="S0")
        second = bdevs(virtiod)
        assert (aliased(second), paths(second)) == ([], {"S1t0": [], "S1t3l1": []})
        assert refused(virtiod, "bdev_get_bdevs", name=alias) == (-19, f"bdev '{alias}' does not exist")
        virtiod.attach_scsi(left.socket, "S0")
        assert bdevs(virtiod) == both

        # Who comes first has them.
        for name in ("S0", "S1"):
            virtiod.call("bdev_virtio_detach_controller", name=name)
        virtiod.attach_scsi(right.socket, "S1")
        virtiod.attach_scsi(left.socket, "S0")
        other = bdevs(virtiod)
        assert aliased(other) == ["S1t0", "S1t3l1"]
        assert other["S1t0"]["uuid"] == both["S0t0"]["uuid"]


def test_two_virtio_blk_disks_of_one_serial_are_two_bdevs(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M", "--serial", "twice", count=2) as disks, daemon(run_dir) as virtiod:
        virtiod.attach(disks.socket, "V0")
        virtiod.attach(run_dir / "t1.sock", "V1")
        both = bdevs(virtiod)
        assert [bdev["driver_specific"]["blk"]["serial"] for bdev in both.values()] == ["twice"] * 2
        virtiod.call("bdev_virtio_detach_controller", name="V0")
        assert bdevs(virtiod) == {"V1": both["V1"]}
        virtiod.attach(disks.socket, "V0")
        assert bdevs(virtiod) == both


def test_a_path_that_is_lost_keeps_what_finds_it(run_dir: Path) -> None:
    with (
        scsi_host(run_dir, LUNS, "a") as left,
        target(run_dir, "--scsi", LUNS, name="b") as right,
        daemon(run_dir) as virtiod,
    ):
        virtiod.attach_scsi(left.socket, "S0")
        virtiod.attach_scsi(right.socket, "S1")
        before = bdevs(virtiod)
        assert aliased(before) == ["S0t0", "S0t3l1"]
        left.kill()
        wait_until(lambda: virtiod.controller("S0")["state"] == "reconnecting", "the loss of S0")
        assert bdevs(virtiod) == before
        virtiod.call("bdev_virtio_detach_controller", name="S1")
        virtiod.attach_scsi(right.socket, "S1")  # while the first is away
        assert bdevs(virtiod) == before
        with scsi_host(run_dir, LUNS, "a") as again:
            wait_until(lambda: virtiod.controller("S0")["state"] == "up", "the return of S0")
            assert bdevs(virtiod) == before
            (alias,) = before["S0t0"]["aliases"]
            again.do("remove", 0, 0)
            wait_until(lambda: "S0t0" not in names(virtiod), "the unit to go")
            assert bdevs(virtiod)["S1t0"] == without_paths(before["S1t0"])
            assert refused(virtiod, "bdev_get_bdevs", name=alias)[0] == -19
            again.do("add", 0, 0, 16 << 20)
            wait_until(lambda: "S0t0" in names(virtiod), "the unit to come")
            assert bdevs(virtiod)["S0t0"]["aliases"] == [alias]
            virtiod.call("bdev_virtio_detach_controller", name="S0")


def without_paths(bdev: dict[str, Any]) -> dict[str, Any]:
    specific = bdev["driver_specific"]
    scsi = {name: value for name, value in specific["scsi"].items() if name != "other_paths"}
    return {**bdev, "driver_specific": {**specific, "scsi": scsi}}


def test_what_an_operator_has_taken_a_device_goes_without(run_dir: Path) -> None:
    with (
        target(run_dir, "--memory", "16M", name="b") as disk,
        target(run_dir, "--scsi", "0:0=16M") as host,
        daemon(run_dir) as virtiod,
    ):
        virtiod.attach(disk.socket, "V0")
        virtiod.attach_scsi(host.socket, "S0")
        before = bdevs(virtiod)
        (alias,) = before["S0t0"]["aliases"]
        for name in (alias, before["V0"]["uuid"], "V0", "S0t0"):
            assert refused(virtiod, "bdev_null_create", name=name, num_blocks=8)[0] == -17
        for name in ("V0", "S0"):
            virtiod.call("bdev_virtio_detach_controller", name=name)
        virtiod.call("bdev_null_create", name=alias, num_blocks=8, uuid=before["S0t0"]["uuid"])
        virtiod.call("bdev_null_create", name="N0", num_blocks=8, uuid=before["V0"]["uuid"])
        virtiod.attach(disk.socket, "V0")
        virtiod.attach_scsi(host.socket, "S0")
        after = bdevs(virtiod)
        assert sorted(after) == sorted(["N0", "S0t0", "V0", alias])
        assert after["S0t0"]["aliases"] == []
        assert f"controller S0: bdev S0t0 is not found by {alias}, which is bdev {alias}" in virtiod.log.read_text()
        virtiod.call("bdev_virtio_detach_controller", name="S0")
        virtiod.call("bdev_null_create", name="S0t0", num_blocks=8)
        attach = {"name": "S0", "trtype": "user", "traddr": str(host.socket), "dev_type": "scsi"}
        code, message = refused(virtiod, "bdev_virtio_attach_controller", **attach)
        assert (code, message) == (-32602, "bdev 'S0t0' already exists")
