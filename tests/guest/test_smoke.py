"""The guest itself: the daemon works in it, and the host sees and does what is asked of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.guest.devices import MIB, pattern
from tests.guest.inside import Host
from tests.support.process import daemon, target


def test_the_daemon_drives_the_embedded_target(run_dir: Path) -> None:
    with target(run_dir, "--memory", "8M") as disk, daemon(run_dir, "-s", "32") as virtiod:
        virtiod.attach(disk.socket)
        load = {"rw": "verify", "queue_depth": 8, "total_bytes": MIB}
        (result,) = virtiod.call("perform_tests", bdevs=["V0"], **load)["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
        client = [sys.executable, "-m", "rpc_client.cli", "--json", "-s", str(virtiod.socket), "bdev_get_bdevs"]
        (bdev,) = json.loads(subprocess.run(client, check=True, capture_output=True, timeout=60).stdout)
        assert (bdev["name"], bdev["num_blocks"] * bdev["block_size"]) == ("V0", 8 * MIB)


def test_the_kernel_and_the_host_see_the_same_disk(host: Host) -> None:
    (disk,) = [path.parent for path in Path("/sys/block").glob("vd*/serial") if path.read_text().strip() == "modern"]
    node = Path("/dev") / disk.name
    with node.open("rb") as file:
        assert file.read(4096) == pattern("modern", 0, 4096) == host.read("modern", 0, 4096)


def test_this_is_the_guest_that_it_is_said_to_be(variant: str) -> None:
    groups = list(Path("/sys/kernel/iommu_groups").glob("*"))
    assert bool(groups) == (variant == "iommu")
    assert int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text()) > 0
