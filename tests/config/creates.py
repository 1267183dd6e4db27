"""Calls that create something, one for each such method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UUID = "6d2a5c7e-3f10-4b8e-9a44-0c5f1be2d901"
# Of each method that creates something: what it is given, and what else it may be given that is something else.
ATTACH: dict[str, Any] = {
    "name": "V0",
    "trtype": "user",
    "traddr": "{dir}/d.sock",
    "dev_type": "blk",
    "vq_count": 3,
    "vq_size": 64,
}
CREATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bdev_null_create": (
        {"name": "N0", "num_blocks": 2048, "block_size": 4096, "uuid": UUID},
        {"num_blocks": 4096, "block_size": 512, "uuid": UUID.replace("6", "7")},
    ),
    "bdev_virtio_attach_controller": (
        ATTACH,
        {"trtype": "pci", "traddr": "{dir}/other.sock", "dev_type": "scsi", "vq_count": 2, "vq_size": 32}
        | {"on_loss": "report"},
    ),
    "nbd_create_export": (
        {"bdev_name": "N1", "name": "disk", "description": "one", "read_only": True, "max_connections": 7},
        {"bdev_name": "N2", "description": "two", "read_only": False, "max_connections": 8},
    ),
}


def there(run_dir: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, with paths in run_dir."""
    return {name: value.format(dir=run_dir) if isinstance(value, str) else value for name, value in params.items()}
