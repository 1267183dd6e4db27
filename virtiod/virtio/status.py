"""The device status (virtio 1.2 §2.1)."""

from __future__ import annotations

from enum import IntFlag


class Status(IntFlag):
    """How far driver and device have come with each other."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128
