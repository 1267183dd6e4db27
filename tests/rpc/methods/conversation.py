"""A call of every method on a daemon with real disks, such that every member of every result comes up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.live import live
from tests.support.rpc_peer import Peer, connected
from virtiod.core.memory import MIB
from virtiod.rpc.methods import METHODS
from virtiod.target.blk.device import DiskSpec, Fault
from virtiod.target.scsi.device import HostSpec
from virtiod.target.scsi.luns import LunSpec
from virtiod.target.target import Target

Params = dict[str, object]

RANDRW: Params = {"rw": "randrw", "total_bytes": 64 << 10, "queue_depth": 2}


def calls(run_dir: Path) -> list[tuple[str, Params]]:
    """In their order, from before the initialisation on."""
    blk: Params = {"name": "B0", "trtype": "user", "traddr": str(run_dir / "blk"), "dev_type": "blk", "vq_size": 64}
    scsi: Params = {"name": "S0", "trtype": "user", "traddr": str(run_dir / "scsi"), "dev_type": "scsi"}
    return [
        ("rpc_get_methods", {"current": True}),
        ("rpc.discover", {}),
        ("bdev_set_options", {"bdev_io_pool_size": 1024}),
        *((name, {}) for name, one in METHODS.items() if one.foreign and not one.params),
        ("framework_set_scheduler", {"name": "static"}),
        ("framework_start_init", {}),
        ("framework_wait_init", {}),
        ("spdk_get_version", {}),
        ("bdev_virtio_attach_controller", blk),
        ("bdev_virtio_attach_controller", scsi),
        ("bdev_null_create", {"name": "N0", "num_blocks": 2048}),
        ("bdev_wait_for_examine", {}),
        ("bdev_virtio_blk_set_hotplug", {"enable": False}),
        ("bdev_get_bdevs", {}),
        ("bdev_virtio_scsi_get_devices", {}),
        ("virtiod_get_controllers", {}),
        ("bdev_enable_histogram", {"name": "B0", "enable": True}),
        ("perform_tests", {**RANDRW, "bdevs": ["N0", "B0"]}),
        ("bdev_get_histogram", {"name": "B0"}),
        ("bdev_get_histogram_borders", {"name": "B0", "borders": [10, 1000]}),
        ("bdev_get_iostat", {}),
        ("bdev_get_iostat", {"name": "N0", "per_channel": True}),
        ("bdev_set_qd_sampling_period", {"name": "N0", "period": 0}),
        ("bdev_get_iostat", {"name": "N0"}),
        ("bdev_reset_iostat", {}),
        ("bdev_reset", {"name": "S0t0"}),
        ("nbd_create_export", {"bdev_name": "N0", "description": "nothing"}),
        ("nbd_get_exports", {}),
        ("bdev_get_bdevs", {"name": "N0"}),
        ("thread_get_stats", {}),
        ("thread_get_pollers", {}),
        ("thread_get_io_channels", {}),
        ("virtiod_get_pollers", {}),
        ("framework_get_reactors", {}),
        ("framework_get_scheduler", {}),
        ("framework_get_governor", {}),
        ("iobuf_get_stats", {}),
        ("env_dpdk_get_mem_stats", {}),
        ("framework_get_subsystems", {}),
        ("framework_get_config", {"name": "bdev"}),
        ("framework_get_config", {"name": "nbd"}),
        ("virtiod_reload_config", {}),
        ("notify_get_types", {}),
        ("notify_get_notifications", {}),
        ("log_set_level", {"level": "INFO"}),
        ("log_get_level", {}),
        ("log_set_print_level", {"level": "ERROR"}),
        ("log_get_print_level", {}),
        ("log_set_flag", {"flag": "rpc"}),
        ("log_clear_flag", {"flag": "rpc"}),
        ("log_get_flags", {}),
        ("virtiod_get_log", {}),
        ("nbd_delete_export", {"name": "N0"}),
        ("bdev_null_delete", {"name": "N0"}),
        ("bdev_virtio_detach_controller", {"name": "S0"}),
        ("spdk_kill_instance", {"sig_name": "SIGUSR1"}),
    ]


@contextlib.asynccontextmanager
async def _peer(run_dir: Path) -> AsyncIterator[Peer]:
    """Of a daemon that waits for its initialisation. The disk at run_dir/blk fails an I/O now and then."""
    disk = DiskSpec(size=MIB, memory=True, fault=Fault("error", after=4, every=4))
    target = Target({str(run_dir / "blk"): disk, str(run_dir / "scsi"): HostSpec({0: {0: LunSpec(MIB, memory=True)}})})
    await target.start()
    try:
        async with (
            live(run_dir, wait_for_rpc=True, http=None, nbd_socket=str(run_dir / "nbd")),
            connected(run_dir) as peer,
        ):
            yield peer
    finally:
        await target.stop()


def converse(run_dir: Path) -> list[tuple[str, Params, bytes]]:
    """Each call with the line that answered it."""

    async def run() -> list[tuple[str, Params, bytes]]:
        async with _peer(run_dir) as peer:
            answers = []
            for method, params in calls(run_dir):
                await peer.send({"method": method, "params": params, "id": 1})
                answers.append((method, params, await peer.reader.readline()))
            return answers

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # which spdk_kill_instance sends to this process
    try:
        return asyncio.run(run())
    finally:
        signal.signal(signal.SIGUSR1, before)


def shape(value: object) -> object:
    """The value with its members in their order, and only the kind of each number and text. Of equal elements one."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        shapes = [shape(item) for item in value]
        return [one for number, one in enumerate(shapes) if one not in shapes[:number]]
    return value if isinstance(value, bool) else {int: 0, float: 0.5, str: ""}[type(value)]


def shapes(answers: list[tuple[str, Params, bytes]]) -> str:
    """A line for each answer, but that which describes all others."""
    return "".join(
        f"{method} {json.dumps(shape(json.loads(line)))}\n" for method, _, line in answers if method != "rpc.discover"
    )
