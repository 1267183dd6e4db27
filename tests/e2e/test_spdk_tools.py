"""What SPDK's package holds besides its client: spdkcli's tree, saved configurations; and what its scripts rely on.

scripts/iostat.py and scripts/histogram.py are in SPDK's source only, so what they compute is computed here: rates
between two answers of bdev_get_iostat, and the buckets of bdev_get_histogram as SPDK documents them: 2^granularity in
a range, those of range r >= 1 being 2^(r-1) ticks wide.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import Peer
from tests.support.process import Daemon, daemon, spdk_module, target
from tests.support.spdk_client import Outcome
from tests.support.waiting import LOAD_S, PATIENCE_S, wait_until

Rpc = Callable[..., Outcome]
# As the script `spdk-cli` of the package does.
CLI = (sys.executable, "-W", "ignore", "-c", "import sys; from spdk.spdk_cli import main; sys.exit(main())")


def spdk_cli(run_dir: Path, *words: str | Path) -> Outcome:
    """A command in spdkcli's tree, of the daemon at run_dir/rpc."""
    spdk_module()
    pytest.importorskip("configshell_fb", reason="spdkcli needs configshell-fb")
    command = [*CLI, "-s", str(run_dir / "rpc"), *map(str, words)]
    environment = {**os.environ, "HOME": str(run_dir)}  # it writes ~/.scripts
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment, cwd=run_dir
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@contextmanager
def loaded(run_dir: Path) -> Iterator[tuple[Daemon, Peer]]:
    """A daemon with the disk V0 under verified load and the SCSI host S0, and a second disk to attach."""
    with ExitStack() as stack:
        disk = stack.enter_context(target(run_dir, "--memory", "16M", name="t"))
        host = stack.enter_context(target(run_dir, "--scsi", "0:0=64M,3:0=16M", name="s"))
        second = stack.enter_context(target(run_dir, "--memory", "1M", name="u"))
        virtiod = stack.enter_context(daemon(run_dir))
        virtiod.attach(disk.socket)
        scsi = {"name": "S0", "trtype": "user", "traddr": str(host.socket), "dev_type": "scsi"}
        virtiod.call("bdev_virtio_attach_controller", **scsi)
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy()
        yield virtiod, second
        virtiod.wait_busy()
        assert virtiod.call("bdev_virtio_detach_controller", name="V0") is True
        (result,) = load.result()["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)


def nodes(tree: str) -> dict[str, str]:
    """Name -> summary of the nodes that `ls` shows."""
    lines = [line.partition("o- ")[2] for line in tree.splitlines() if "o- " in line]
    return {line.split()[0]: line.partition("[")[2].removesuffix("]") for line in lines}


def test_the_tree_shows_what_there_is(run_dir: Path) -> None:
    with loaded(run_dir) as (virtiod, _):
        virtiod.call("bdev_null_create", name="N0", num_blocks=2048, block_size=512)
        shown = spdk_cli(run_dir, "ls")
        assert (shown.status, shown.err) == (0, ""), shown
        found = nodes(shown.out)
        assert found["virtioblk_disk"] == found["virtioscsi_disk"] == found["null"] == "Bdevs: 1"
        assert found["V0"] == "Size=16.0M, Claimed"  # by the load
        assert found["N0"] == "Size=1.0M, Not claimed"
        assert found["S0"] == str(run_dir / "s.sock")
        assert found["S0t0"].endswith("Size=64.0M, Not claimed")
        assert found["S0t3"].endswith("Size=16.0M, Not claimed")
        # Kinds that virtiod has not are empty, not errors.
        assert {found[kind] for kind in ("aio", "malloc", "nvme", "raid_volume", "rbd", "uring")} == {"Bdevs: 0"}
        assert found["lvol_stores"] == "Lvol stores: 0"


def test_the_tree_attaches_and_detaches(run_dir: Path) -> None:
    with loaded(run_dir) as (virtiod, second):
        create = ("/bdevs/virtioblk_disk", "create", "V1", "user", second.socket)
        assert spdk_cli(run_dir, *create).out.strip() == "V1"
        assert virtiod.controller("V1")["state"] == "up"
        assert "V1" in nodes(spdk_cli(run_dir, "ls", "/bdevs/virtioblk_disk").out)
        details = json.loads(spdk_cli(run_dir, "/bdevs/virtioblk_disk/V1", "show_details").out)
        assert details["driver_specific"]["virtio"]["socket"] == str(second.socket)
        assert spdk_cli(run_dir, "/bdevs/virtioblk_disk", "delete", "V1").status == 0
        assert "V1" not in nodes(spdk_cli(run_dir, "ls", "/bdevs/virtioblk_disk").out)


def test_the_tree_is_told_what_virtiod_has_not(run_dir: Path) -> None:
    with loaded(run_dir):
        refused = spdk_cli(run_dir, "/bdevs/malloc", "create", "16", "512")
        assert refused.status == 1
        assert '"code": -32601' in refused.err
        assert "Method not found" in refused.err
        absent = spdk_cli(run_dir, "/bdevs/virtioblk_disk", "delete", "V9")
        assert '"code": -19' in absent.err


def test_the_tree_tells_statistics_and_saves(run_dir: Path, rpc: Rpc) -> None:
    with loaded(run_dir):
        told = json.loads(spdk_cli(run_dir, "/bdevs/virtioblk_disk", "get_bdev_iostat", "V0").out)
        assert told["bdevs"][0]["num_read_ops"] > 0
        assert spdk_cli(run_dir, "save_config", run_dir / "saved.json").status == 0
        assert json.loads((run_dir / "saved.json").read_text()) == rpc("save_config").json


def test_what_save_config_prints_under_load_loads_into_a_fresh_daemon(run_dir: Path, rpc: Rpc) -> None:
    with loaded(run_dir) as (virtiod, _):
        virtiod.call("bdev_null_create", name="N0", num_blocks=2048, block_size=512)
        virtiod.call("nbd_create_export", bdev_name="N0", name="null")
        saved = rpc("save_config")
        before = [bdev["name"] for bdev in virtiod.call("bdev_get_bdevs")]
        fresh_dir = run_dir / "fresh"
        fresh_dir.mkdir()
        # The disks serve one front-end each: those of the copy are others.
        text = saved.out.replace(str(run_dir / "t.sock"), str(run_dir / "u.sock"))
        document = json.loads(text)
        for subsystem in document["subsystems"]:
            subsystem["config"] = [call for call in subsystem["config"] or [] if "S0" not in json.dumps(call)]
        with daemon(fresh_dir, "--wait-for-rpc") as fresh:
            loading = rpc("-s", fresh_dir / "rpc", "load_config", stdin=json.dumps(document))
            assert (loading.status, loading.out) == (0, ""), loading
            names = [bdev["name"] for bdev in fresh.call("bdev_get_bdevs")]
            assert sorted(names) == sorted(name for name in before if not name.startswith("S0"))
            assert [export["name"] for export in fresh.call("nbd_get_exports")] == ["null"]


def change_between(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, int], float]:
    """Of two answers of bdev_get_iostat: what was counted between them, and the seconds."""
    (before,), (after,) = first["bdevs"], second["bdevs"]
    change = {key: after[key] - before[key] for key in after if isinstance(after[key], int)}
    return change, (second["ticks"] - first["ticks"]) / second["tick_rate"]


def test_rates_between_two_answers_are_those_of_the_load(run_dir: Path, rpc: Rpc) -> None:
    with loaded(run_dir) as (virtiod, _):
        first = rpc("bdev_get_iostat", "--names", "V0").json
        virtiod.wait_busy(more=1000)

        def fits() -> bool:
            """Little's law, for the two ways to say how much was in flight; and the disk was in use all the time.

            An I/O counts when it ends: what was in flight at either answer matters less the longer it takes.
            """
            change, seconds = change_between(first, virtiod.call("bdev_get_iostat", names=["V0"]))
            latencies = (change["read_latency_ticks"] + change["write_latency_ticks"]) / first["tick_rate"]
            found = latencies / 8, change["weighted_io_time"] / 8e6, change["io_time"] / 1e6
            return all(one / seconds == pytest.approx(1, rel=0.25) for one in found)

        wait_until(fits, "rates that fit the load")
        second = rpc("bdev_get_iostat", "--names", "V0").json
        change, _ = change_between(first, second)
        assert change["num_read_ops"] + change["num_write_ops"] >= 1000
        # The poller may count an I/O between the reads of two counters.
        assert change["bytes_read"] == pytest.approx(4096 * change["num_read_ops"], rel=0.01)
        assert change["bytes_written"] == pytest.approx(4096 * change["num_write_ops"], rel=0.01)
        assert 0 <= second["bdevs"][0]["queue_depth"] <= 8


def decoded(answer: dict[str, Any]) -> Iterator[tuple[float, float, int]]:
    """From, to (both in us) and count of each bucket."""
    counts = struct.unpack(
        f"<{len(base64.b64decode(answer['histogram'])) // 8}Q", base64.b64decode(answer["histogram"])
    )
    size = 1 << answer["granularity"]
    low = 0
    for index, count in enumerate(counts):
        span, place = divmod(index, size)
        span += answer["min_range"]
        width = 1 << max(span - 1, 0)
        low = (place if span == 0 else size + place) * width
        yield low * 1e6 / answer["tsc_rate"], (low + width) * 1e6 / answer["tsc_rate"], count


def counted(virtiod: Daemon) -> tuple[int, float]:
    """I/Os that succeeded on V0, and the sum of their latencies in us. What was being counted before is in both."""
    virtiod.wait_busy(more=1)
    stat = virtiod.iostat()
    return virtiod_ops(stat), (stat["read_latency_ticks"] + stat["write_latency_ticks"]) / 1e3


def virtiod_ops(stat: dict[str, Any]) -> int:
    return int(stat["num_read_ops"] + stat["num_write_ops"])


def test_a_histogram_decodes_to_the_latencies_that_were(run_dir: Path, rpc: Rpc) -> None:
    with loaded(run_dir) as (virtiod, _):
        # I/O goes on: more is counted from the reset to the last answer than is in the histogram, and less in between.
        rpc("bdev_reset_iostat", "-b", "V0", "-m", "all")
        assert rpc("bdev_enable_histogram", "V0", "--histogram").status == 0
        ops, sum_us = counted(virtiod)
        virtiod.wait_busy(more=1000)
        within = [now - before for now, before in zip(counted(virtiod), (ops, sum_us), strict=True)]
        virtiod.wait_busy(more=1)
        first = rpc("bdev_get_histogram", "V0").json
        all_ops, all_us = counted(virtiod)
        stat = virtiod.iostat()
        buckets = [bucket for bucket in decoded(first) if bucket[2]]
        assert 1000 <= within[0] <= sum(count for _, _, count in buckets) <= all_ops
        assert within[1] <= sum(end * count for _, end, count in buckets)
        assert sum(start * count for start, _, count in buckets) <= all_us
        assert buckets[-1][0] <= max(stat["max_read_latency_ticks"], stat["max_write_latency_ticks"]) / 1e3
