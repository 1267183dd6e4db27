"""A real daemon in this process, with a configuration file, and what there is in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support import sharing
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.options import Options
from virtiod.target.blk.device import DiskSpec
from virtiod.target.target import Target

Entry = dict[str, Any]


def attach(name: str, path: Path, **more: Any) -> Entry:
    params = {"name": name, "trtype": "user", "traddr": str(path), "dev_type": "blk", **more}
    return {"method": "bdev_virtio_attach_controller", "params": params}


def null(name: str, num_blocks: int = 2048) -> Entry:
    return {"method": "bdev_null_create", "params": {"name": name, "num_blocks": num_blocks}}


def export(bdev: str, **more: Any) -> Entry:
    return {"method": "nbd_create_export", "params": {"bdev_name": bdev, **more}}


def write_config(path: Path, *calls: Entry) -> Path:
    exports = [call for call in calls if call["method"].startswith("nbd_")]
    bdevs = [call for call in calls if call not in exports]
    document = {"subsystems": [{"subsystem": "bdev", "config": bdevs}, {"subsystem": "nbd", "config": exports}]}
    path.write_text(json.dumps(document, indent=1))
    return path


@contextlib.asynccontextmanager
async def live(run_dir: Path, config: Path | None = None, **options: Any) -> AsyncIterator[Daemon]:
    """From running to its orderly end."""
    settings = {"memory_mib": 64, "cpus": tuple(sharing.cores(1)), "config": config and str(config), **options}
    daemon = Daemon(Options(rpc_socket=str(run_dir / "rpc"), **settings))
    daemon.rpc.strict = True
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop(10)


@contextlib.asynccontextmanager
async def disks(*paths: Path) -> AsyncIterator[Target]:
    target = Target({str(path): DiskSpec(size=1 << 20, memory=True) for path in paths})
    await target.start()
    try:
        yield target
    finally:
        await target.stop()


def names(daemon: Daemon) -> tuple[list[str], list[str]]:
    """Those of bdevs and of exports."""
    bdevs = sorted(bdev.name for bdev in daemon.system.bdevs.list())
    return bdevs, sorted(one.name for one in daemon.system.exports.list())


def states(daemon: Daemon) -> dict[str, str]:
    return {controller.name: str(controller.shown_state) for controller in daemon.system.controllers.list()}
