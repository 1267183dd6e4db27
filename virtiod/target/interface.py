"""The embedded target: a virtio device that this process serves over vhost-user.

`backend` speaks the protocol and owns the connection, `memory` maps what the front-end shares; they drive a
TargetDevice, which does the I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from virtiod.virtio.features import Feature


class MappedRegion(NamedTuple):
    """A piece of the front-end's memory: its guest-physical and user addresses, and where it is mapped here."""

    guest: int
    size: int
    user: int
    local: int


class QueueSetup(NamedTuple):
    """A split virtqueue to serve. Ring addresses are local ones, aligned, each part inside one region.

    The descriptors remain the back-end's and are open until queue_stop() has returned. All are non-blocking;
    call_fd and err_fd may be -1: nobody wants to be told.
    """

    size: int
    desc: int
    avail: int
    used: int
    base: int  # available index to resume from; the used index is the one in the ring
    kick_fd: int
    call_fd: int
    err_fd: int  # to be signalled when the ring is broken
    features: int  # acknowledged virtio features

    @property
    def event_idx(self) -> bool:
        return bool(self.features >> Feature.EVENT_IDX & 1)


class TargetDevice(ABC):
    """What a back-end serves. All methods are called on the event loop, one at a time.

    A VirtiodError that one of them raises refuses the front-end's request. What descriptors hold is hostile: their
    addresses are guest-physical and must be looked up in the regions given here.
    """

    features: int  # virtio features of the device itself; the rings' are the back-end's
    num_queues: int
    max_queue_size: int

    @abstractmethod
    def config(self) -> bytes:
        """The configuration space, at most 256 bytes."""

    @abstractmethod
    def set_config(self, offset: int, data: bytes) -> None:
        """Writes to the configuration for the front-end. InvalidArgument where that is not allowed."""

    @abstractmethod
    async def queue_start(self, index: int, setup: QueueSetup, regions: Sequence[MappedRegion]) -> None:
        """Starts to serve a queue."""

    @abstractmethod
    async def queue_stop(self, index: int) -> int:
        """Stops serving a running queue: what was taken is completed, and nothing uses its rings or its memory after.

        Returns the available index of the next request that was not taken.
        """

    @abstractmethod
    async def memory_changed(self, regions: Sequence[MappedRegion]) -> None:
        """Sets the regions in which addresses are looked up.

        Regions that are missing are unmapped when this returns; queues run meanwhile only if none is.
        """
