"""The configuration file, which is a list of RPC calls by subsystem, in SPDK's format:

    {"subsystems": [{"subsystem": "bdev", "config": [{"method": "...", "params": {...}}]}]}

An entry of "config" may also be an array of calls (a batch). What RPC can do, the file can do: its
calls go through the same methods, those for the time before initialisation first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtiod.bdev.null import PRODUCT_NAME as NULL_PRODUCT
from virtiod.errors import InvalidArgument, VirtiodError
from virtiod.rpc.errors import RpcError
from virtiod.rpc.iostat import DEFAULT_QD_PERIOD_US

if TYPE_CHECKING:
    from virtiod.daemon import Daemon

# Name -> those that it depends on, in the order of initialisation.
SUBSYSTEMS: dict[str, tuple[str, ...]] = {"bdev": (), "nbd": ("bdev",)}

# SPDK's defaults of bdev_set_options, which its own saved configurations always begin with.
BDEV_OPTIONS: dict[str, Any] = {
    "bdev_io_pool_size": 65535,
    "bdev_io_cache_size": 256,
    "bdev_auto_examine": True,
    "iobuf_small_cache_size": 128,
    "iobuf_large_cache_size": 16,
}

MAX_FILE_BYTES = 16 << 20

logger = logging.getLogger(__name__)


@dataclass
class Settings:
    """What was set by RPC and belongs to no object."""

    bdev_options: dict[str, Any] = field(default_factory=lambda: dict(BDEV_OPTIONS))
    hotplug: bool | None = None
    hotplug_period_us: int = 0


@dataclass(frozen=True)
class Call:
    """One call of the file; `where` is its path in it, for messages."""

    where: str
    method: str
    params: dict[str, Any]


def read_config(path: str) -> list[Call]:
    """The calls of a file in their order. Raises InvalidArgument naming the line, or the path inside the file."""
    try:
        raw = Path(path).read_bytes()
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidArgument(f"{path}: longer than {MAX_FILE_BYTES} bytes")
        return parse_config(json.loads(raw), path)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{path}:{error.lineno}:{error.colno}: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{path}: {error}") from error


def parse_config(document: Any, source: str) -> list[Call]:
    """Validates the document's form. Members that mean nothing here are left alone, as SPDK does."""
    calls: list[Call] = []
    subsystems = _member(document, "subsystems", list, f"{source}: top level")
    for number, subsystem in enumerate(subsystems):
        where = f"{source}: subsystems[{number}]"
        _member(subsystem, "subsystem", str, where)
        if subsystem.get("config") is None:
            continue
        for index, entry in enumerate(_member(subsystem, "config", list, where)):
            calls += _entry(entry, f"{where}.config[{index}]")
    return calls


def _entry(entry: Any, where: str) -> Iterator[Call]:
    if isinstance(entry, list):
        for index, one in enumerate(entry):
            yield _call(one, f"{where}[{index}]")
    else:
        yield _call(entry, where)


def _call(entry: Any, where: str) -> Call:
    name = _member(entry, "method", str, where)
    unknown = [member for member in entry if member not in {"method", "params"}]
    if unknown:
        raise InvalidArgument(f"{where}: unknown member {unknown[0]!r}")
    params = entry.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidArgument(f"{where}: 'params' must be an object")
    return Call(where, name, params)


def _member(value: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: must be an object")
    if name not in value:
        raise InvalidArgument(f"{where}: has no '{name}'")
    if not isinstance(value[name], kind):
        raise InvalidArgument(f"{where}: '{name}' must be {'an array' if kind is list else 'a string'}")
    return value[name]


async def apply_calls(daemon: Daemon, calls: list[Call]) -> list[Call]:
    """Makes the calls that the daemon's state allows, in order; returns those that it does not.

    Raises VirtiodError naming the call that failed, with its code.
    """
    later = []
    for call in calls:
        try:
            if daemon.rpc.callable_now(call.method):
                await daemon.rpc.call(call.method, call.params)
            else:
                later.append(call)
        except RpcError as error:
            code = -error.code if -4096 < error.code < -1 else InvalidArgument.errno
            raise VirtiodError(f"{call.where} ({call.method}): {error.message}", code) from error
    return later


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
            info = controller.virtio_info()
            params |= {"vq_count": info["vq_count"], "vq_size": info["vq_size"]}
        calls.append(_saved("bdev_virtio_attach_controller", params))
    if settings.hotplug is not None:
        hotplug = {"enable": settings.hotplug, "period_us": settings.hotplug_period_us}
        calls.append(_saved("bdev_virtio_blk_set_hotplug", hotplug))
    for bdev in daemon.bdevs.list():
        period = daemon.iostats.qd_period(bdev)
        if period != DEFAULT_QD_PERIOD_US:
            calls.append(_saved("bdev_set_qd_sampling_period", {"name": bdev.name, "period": period}))
    return [*calls, {"method": "bdev_wait_for_examine"}]


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
