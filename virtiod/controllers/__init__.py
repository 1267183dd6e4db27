"""Virtio controllers: what is at the other end of a transport, and the bdevs that it becomes. A kind of controller
brings its features, its configuration space, its queues and its bdevs; the life cycle and the supervision are common.
"""

from __future__ import annotations

from virtiod.controllers.manager import ControllerManager
from virtiod.controllers.request import AttachRequest

__all__ = ["AttachRequest", "ControllerManager"]
