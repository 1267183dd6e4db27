"""Virtio controllers: what is at the other end of a transport, and the bdevs that it becomes.

    Controller          the state machine that all kinds share: attach, loss and return, detach   controller.py
    ├── BlkController   one disk                                                                  blk.py
    ControllerManager   all controllers by name, and their supervision                            manager.py

A kind of controller brings its features, its configuration space (a pure parser), its queues and its bdevs. States:

    attaching -> up -> (reconnecting -> up)* -> detaching -> gone;   attaching -> gone when it fails

A controller whose device was taken out detaches by itself.
"""

from __future__ import annotations

from virtiod.controllers.controller import Controller
from virtiod.controllers.manager import ControllerManager
from virtiod.controllers.request import AttachRequest

__all__ = ["AttachRequest", "Controller", "ControllerManager"]
