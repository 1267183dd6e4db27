"""A SCSI host's disks in the daemon: found, named, and served as any other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scsi_host import scsi_host
from tests.support.peers import run
from tests.support.process import Daemon, daemon, target
from tests.support.spdk_client import Outcome
from tests.support.waiting import LOAD_S, PATIENCE_S, wait_until

Rpc = Callable[..., Outcome]

MIB = 1 << 20
# Three targets, one of them with four LUNs.
LUNS = {(0, 0): 16 * MIB, (3, 0): 8 * MIB, (3, 1): 9 * MIB, (3, 7): 10 * MIB, (3, 300): 11 * MIB, (9, 0): 1 << 40}
SPEC = ",".join(f"{t}:{n}={'null:' if size > 1 << 30 else ''}{size}" for (t, n), size in LUNS.items())
NAMES = [f"S0t{t}" + (f"l{n}" if n else "") for t, n in LUNS]


def test_spdks_client_sees_every_disk_of_every_target(run_dir: Path, rpc: Rpc) -> None:
    with target(run_dir, "--scsi", SPEC) as host, daemon(run_dir) as virtiod:
        attached = rpc("bdev_virtio_attach_controller", "S0", "-t", "user", "-a", host.socket, "-d", "scsi")
        assert (attached.status, attached.out.split()) == (0, NAMES), attached
        virtio = {"vq_count": 3, "vq_size": 512, "type": "user", "socket": str(host.socket)}
        assert rpc("bdev_virtio_scsi_get_devices").json == [{"name": "S0", "virtio": virtio}]
        found = {bdev["name"]: bdev for bdev in rpc("bdev_get_bdevs").json}
        assert sorted(found) == sorted(NAMES)
        for name, ((number, lun), size) in zip(NAMES, LUNS.items(), strict=True):
            bdev = found[name]
            assert (bdev["product_name"], bdev["num_blocks"] * bdev["block_size"]) == ("Virtio SCSI Disk", size)
            assert bdev["driver_specific"]["virtio"] == virtio
            scsi = bdev["driver_specific"]["scsi"]
            assert (scsi["target"], scsi["lun"]) == (number, lun)
            assert scsi["serial"].startswith(f"virtiod-{number}-{lun}")
        assert len({bdev["uuid"] for bdev in found.values()}) == len(NAMES)
        by_alias = rpc("bdev_get_bdevs", "-b", found["S0t3l300"]["aliases"][0]).json
        assert [bdev["name"] for bdev in by_alias] == ["S0t3l300"]
        assert rpc("bdev_virtio_detach_controller", "S0").status == 0
        assert (rpc("bdev_get_bdevs").json, rpc("bdev_virtio_scsi_get_devices").json) == ([], [])
        assert virtiod.process.poll() is None


def test_a_disk_is_copied_to_and_from_over_nbd(run_dir: Path) -> None:
    there, back = run_dir / "there", run_dir / "back"
    there.write_bytes(os.urandom(11 * MIB))
    with target(run_dir, "--scsi", SPEC) as host, daemon(run_dir) as virtiod:
        virtiod.attach_scsi(host.socket)
        uri = virtiod.export("S0t3l300")
        for source, sink in ((there, uri), (uri, back)):
            run("nbdcopy", "--flush", source, sink)
        sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (there, back)]
        assert sums[0] == sums[1]


def shape(value: Any) -> Any:
    """The keys of objects, in all depths; without those that tell of the kind of device."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in sorted(value.items()) if key not in {"blk", "scsi"}}
    return [shape(each) for each in value[:1]] if isinstance(value, list) else type(value).__name__


def test_rpc_and_metrics_show_them_as_they_show_blk_disks(run_dir: Path) -> None:
    with (
        target(run_dir, "--memory", "16M", name="b") as disk,
        target(run_dir, "--scsi", "0:0=16M") as host,
        daemon(run_dir, "--http", "127.0.0.1:0") as virtiod,
    ):
        virtiod.attach(disk.socket, "B0")
        assert virtiod.attach_scsi(host.socket) == ["S0t0"]
        for bdev in ("B0", "S0t0"):
            virtiod.export(bdev)
        load = virtiod.call("perform_tests", bdevs=["B0", "S0t0"], rw="verify", total_bytes=MIB, queue_depth=8)
        assert shape(load["results"][0]) == shape(load["results"][1])
        assert all((r["status"], r["io_failed"], r["io_mismatched"]) == ("finished", 0, 0) for r in load["results"])
        for show in (virtiod.bdev, virtiod.iostat):
            ours, theirs = show("S0t0"), show("B0")
            ours.pop("aliases", None)  # blk has no names but its own
            theirs.pop("aliases", None)
            assert shape(ours) == shape(theirs)
        assert shape(virtiod.controller("S0")) == shape(virtiod.controller("B0"))
        assert virtiod.iostat("S0t0")["num_read_ops"] == virtiod.iostat("B0")["num_read_ops"] == 256
        assert [queue["in_flight"] for queue in virtiod.controller("S0")["queues"]] == [0, 0, 0]
        port = re.search(r"HTTP at 127\.0\.0\.1 port (\d+)", virtiod.log.read_text())
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=PATIENCE_S) as page:
            lines = page.read().decode().splitlines()
        series = {
            name: {re.sub(rf"{name}", "X", line.rpartition(" ")[0]) for line in lines if f'="{name}"' in line}
            for name in ("B0", "S0t0", "S0")
        }
        assert len(series["S0t0"]) > 100
        infos = {one for one in series["B0"] | series["S0t0"] | series["S0"] if "_info{" in one}
        controller = {one for one in series["B0"] if "controller=" in one}
        assert series["S0t0"] - infos == series["B0"] - controller - infos
        other_queues = {one for one in series["S0"] if 'queue="1"' in one or 'queue="2"' in one}
        assert series["S0"] - other_queues - infos == controller - infos


def test_a_saved_configuration_brings_them_back(run_dir: Path, rpc: Rpc) -> None:
    def state(virtiod: Daemon) -> list[Any]:
        shown = virtiod.call("virtiod_get_controllers")
        return [
            sorted(virtiod.call("bdev_get_bdevs"), key=lambda bdev: str(bdev["name"])),
            virtiod.call("nbd_get_exports"),
            [(c["name"], c["dev_type"], c["traddr"], c["virtio"]) for c in shown],
        ]

    file = run_dir / "saved.json"
    with target(run_dir, "--scsi", SPEC, "--queues", "2") as host:
        with daemon(run_dir) as virtiod:
            assert virtiod.attach_scsi(host.socket, vq_count=2, vq_size=128) == NAMES
            virtiod.export("S0t3l7")
            file.write_text(rpc("save_config").out)
            before = state(virtiod)
        saved = json.loads(file.read_text())
        (call,) = [c for c in saved["subsystems"][0]["config"] if c["method"] == "bdev_virtio_attach_controller"]
        params = {"name": "S0", "dev_type": "scsi", "trtype": "user", "traddr": str(host.socket)}
        assert call["params"] == params | {"vq_count": 2, "vq_size": 128}
        with daemon(run_dir, "-c", file) as virtiod:
            assert state(virtiod) == before
            assert rpc("save_config").json == saved
            assert int(run("nbdinfo", "--size", virtiod.call("nbd_get_exports")[0]["uris"][0])) == 10 * MIB


def test_perf_loads_every_disk_of_a_host(run_dir: Path) -> None:
    with target(run_dir, "--scsi", "0:0=4M,1:7=4M") as host:
        load = ("--rw", "verify", "--yes", "--total-bytes", "1M", "-s", "64", "--json")
        words = (sys.executable, "-m", "virtiod.cli", "perf", f"scsi:{host.socket}", *load)
        results = json.loads(run(*words))["results"]
        assert [(r["status"], r["ios"], r["io_mismatched"]) for r in results] == [("finished", 512, 0)] * 2
    with scsi_host(run_dir, "0:0=4M", name="e") as empty:
        empty.do("remove", 0, 0)
        with pytest.raises(pytest.fail.Exception, match="no disks were found"):
            run(sys.executable, "-m", "virtiod.cli", "perf", f"scsi:{empty.socket}", "-s", "64", "-t", "1")


def test_the_demo_shows_both_kinds(run_dir: Path) -> None:
    report = run_dir / "demo.json"
    said = run(sys.executable, "-m", "virtiod.cli", "demo", "--seconds", "0.2", "--report", report)
    steps = json.loads(report.read_text())["steps"]
    assert steps["scsi attach"]["bdevs"] == ["VirtioScsi0t0", "VirtioScsi0t2l300"]
    assert steps["scsi verify"]["ok"]
    assert "VirtioScsi0t2l300" in said and "All steps succeeded" in said


def test_the_disks_of_a_host_that_died_are_back_with_it(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    with daemon(run_dir) as virtiod:
        with target(run_dir, "--scsi", f"0:0=file:{image},1:0=4M") as host:
            virtiod.attach_scsi(host.socket)
            load = virtiod.send("perform_tests", bdevs=["S0t0"], rw="verify", queue_depth=16, time_s=LOAD_S)
            virtiod.wait_busy("S0t0")
            host.kill()
        wait_until(lambda: virtiod.controller("S0")["state"] == "reconnecting", "the loss to be noticed")
        with target(run_dir, "--scsi", f"0:0=file:{image},2:0=4M"):
            names = {"S0t0", "S0t2"}
            wait_until(lambda: {b["name"] for b in virtiod.call("bdev_get_bdevs")} == names, "the disks to be right")
            virtiod.wait_busy("S0t0")
            assert virtiod.call("bdev_virtio_detach_controller", name="S0") is True
            (result,) = load.result()["results"]
            assert (result["io_failed"], result["io_mismatched"]) == (0, 0)
