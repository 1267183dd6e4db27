"""The calls that bring a daemon into the state that it is in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from virtiod.bdev.iostat import DEFAULT_QD_PERIOD_US
from virtiod.bdev.null import PRODUCT_NAME as NULL_PRODUCT
from virtiod.config.document import identity
from virtiod.controllers.controller import State

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon

# Name -> those that it depends on, in the order of initialisation.
SUBSYSTEMS: dict[str, tuple[str, ...]] = {"bdev": (), "nbd": ("bdev",)}

# What creates something that has a name -> what deletes it.
CREATES: dict[str, str] = {
    "bdev_virtio_attach_controller": "bdev_virtio_detach_controller",
    "bdev_null_create": "bdev_null_delete",
    "nbd_create_export": "nbd_delete_export",
}

# SPDK's defaults of bdev_set_options, which its own saved configurations always begin with.
BDEV_OPTIONS: dict[str, Any] = {
    "bdev_io_pool_size": 65535,
    "bdev_io_cache_size": 256,
    "bdev_auto_examine": True,
    "iobuf_small_cache_size": 128,
    "iobuf_large_cache_size": 16,
}


@dataclass
class Settings:
    """What was set by RPC and belongs to no object."""

    bdev_options: dict[str, Any] = field(default_factory=lambda: dict(BDEV_OPTIONS))
    hotplug: bool | None = None
    hotplug_period_us: int = 0


def running_config(daemon: Daemon, subsystem: str) -> list[dict[str, Any]]:
    """The calls that bring a subsystem into its present state."""
    return _bdev_config(daemon) if subsystem == "bdev" else _nbd_config(daemon)


def _bdev_config(daemon: Daemon) -> list[dict[str, Any]]:
    settings = daemon.settings
    calls = [_saved("bdev_set_options", settings.bdev_options)]
    for bdev in daemon.bdevs.list():
        if bdev.product_name == NULL_PRODUCT:
            params = {"name": bdev.name, "num_blocks": bdev.num_blocks, "block_size": bdev.block_size}
            calls.append(_saved("bdev_null_create", {**params, "uuid": bdev.uuid}))
    for controller in daemon.controllers.list():
        params = {
            "name": controller.name,
            "dev_type": controller.dev_type,
            "trtype": controller.trtype,
            "traddr": controller.traddr,
        }
        if controller.trtype == "user":
            params |= _queues_of(controller)
        calls.append(_saved("bdev_virtio_attach_controller", params))
    if settings.hotplug is not None:
        hotplug = {"enable": settings.hotplug, "period_us": settings.hotplug_period_us}
        calls.append(_saved("bdev_virtio_blk_set_hotplug", hotplug))
    for bdev in daemon.bdevs.list():
        period = daemon.iostats.qd_period(bdev)
        if period != DEFAULT_QD_PERIOD_US:
            calls.append(_saved("bdev_set_qd_sampling_period", {"name": bdev.name, "period": period}))
    return [*calls, {"method": "bdev_wait_for_examine"}]


def _queues_of(controller: Any) -> dict[str, int]:
    """As they are; as they were asked for while the device is not there."""
    if controller.state == State.ATTACHING:
        asked = {"vq_count": controller.request.vq_count, "vq_size": controller.request.vq_size}
        return {name: value for name, value in asked.items() if value is not None}
    info = controller.virtio_info()
    return {"vq_count": info["vq_count"] - controller.fixed_queues, "vq_size": info["vq_size"]}


def _nbd_config(daemon: Daemon) -> list[dict[str, Any]]:
    return [
        _saved(
            "nbd_create_export",
            {
                "bdev_name": export.bdev.name,
                "name": export.name,
                "read_only": export.read_only,
                "description": export.description,
                "max_connections": export.max_connections,
            },
        )
        for export in daemon.exports.get_exports()
    ]


def _saved(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"method": method, "params": dict(params)}


def running_identities(daemon: Daemon) -> set[tuple[str, str]]:
    """What is there, as the calls that would make it."""
    return {
        identity(call["method"], call.get("params", {})) for name in SUBSYSTEMS for call in running_config(daemon, name)
    }


def saved_document(daemon: Daemon, leave_out: Collection[tuple[str, str]] = ()) -> dict[str, Any]:
    """The configuration of the daemon as it is, without the calls of these identities."""
    return {
        "subsystems": [
            {
                "subsystem": name,
                "config": [
                    call
                    for call in running_config(daemon, name)
                    if identity(call["method"], call.get("params", {})) not in leave_out
                ],
            }
            for name in SUBSYSTEMS
        ]
    }
