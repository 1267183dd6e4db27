"""virtiod: drives virtio-blk and virtio-scsi controllers from user space by polling."""

from __future__ import annotations

__version__ = "0.1.0"
