"""Configuration documents for tests."""

from __future__ import annotations

from typing import Any


def document(*calls: Any, subsystem: str = "bdev") -> dict[str, Any]:
    return {"subsystems": [{"subsystem": subsystem, "config": list(calls)}]}


def attach(name: str, **more: Any) -> dict[str, Any]:
    params = {"name": name, "trtype": "user", "traddr": "/x.sock", "dev_type": "blk", **more}
    return {"method": "bdev_virtio_attach_controller", "params": params}
