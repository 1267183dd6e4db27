"""Virtio controllers: a device at the other end of a transport, and the bdevs of its disks. A kind of controller
defines its features, its configuration space, its queues and its bdevs; life cycle and supervision are common.
"""

from __future__ import annotations

from virtiod.controllers.manager import ControllerManager
from virtiod.controllers.request import AttachRequest

__all__ = ["AttachRequest", "ControllerManager"]
