"""The device status (virtio 1.2 §2.1)."""

from __future__ import annotations

from enum import IntFlag


class Status(IntFlag):
    """How far the driver has set the device up, and what failed."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128
