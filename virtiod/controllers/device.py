"""A virtio device with its queues: connects, negotiates, and starts it.

This is the same for every kind of controller and in every state; controller.py says when it is done. How a session with
the device ends is in ending.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Generic, Protocol, TypeVar

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.bdev.channel import Holdings
from virtiod.bdev.keeping import KeptChannels, KeptCounters
from virtiod.controllers.description import VirtioDescription
from virtiod.controllers.keeping import Keeping
from virtiod.controllers.quarantine import Quarantine
from virtiod.controllers.request import AttachRequest
from virtiod.core.counted import counted
from virtiod.core.errors import ProtocolError
from virtiod.core.memory import DmaMemory
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller
from virtiod.transports.epoch import PEER_GRACE_S
from virtiod.transports.interface import QueueLayout, Transport
from virtiod.virtio.features import Feature, feature_names, likely_kind
from virtiod.virtqueue.handle import QueueCounters, RequestQueue
from virtiod.virtqueue.spec import RingSpec

CONNECT_DEADLINE_S = 10.0  # for all of it, whatever the device does
DEFAULT_VQ_SIZE = 512
MIN_VQ_SIZE = 4  # entries of a ring: the smallest power of two that has room for header, data and status


@dataclass(frozen=True)
class Context:
    """What controllers work with. buffers: of each poller. io_timeout_s 0: I/O may take for ever. allow_unbind: PCI
    devices may be taken from the kernel's driver. peer_grace_s: after so long a vhost-user target counts as gone that
    has closed its connection, and whose process can't be seen."""

    memory: DmaMemory
    pollers: Sequence[Poller]
    buffers: Sequence[PollerBuffers]
    bdevs: BdevRegistry
    quarantine: Quarantine
    io_timeout_s: float
    allow_unbind: bool = False
    peer_grace_s: float = PEER_GRACE_S


class DeviceConfig(Protocol):
    """What the configuration of every kind has."""

    @property
    def num_queues(self) -> int:
        """How many request queues the device has."""


Config = TypeVar("Config", bound=DeviceConfig)


class Device(ABC, Generic[Config]):
    """A device as a controller drives it. bdevs: its disks."""

    dev_type: str
    wanted: ClassVar[Sequence[int]]  # features that are used where the device offers them
    config_sizes: Sequence[int]  # that the configuration space may have, in the order to try them
    fixed_queues = 0  # that every device of the kind has, before its request queues
    _features = 0
    _config: Config

    def __init__(self, request: AttachRequest, transport: Transport, context: Context) -> None:
        self.request = request
        self.transport = transport
        self.context = context
        self.bdevs: list[Bdev] = []
        self.service_queues: list[RequestQueue] = []  # those that carry no I/O
        self.request_queues: list[RequestQueue] = []
        self.keeping = Keeping(request.on_loss, self.bdevs, context.bdevs, context.io_timeout_s)
        self.holdings = Holdings(len(context.pollers))
        self._regions = 0  # of DMA memory, when its queues were started
        self._served = False  # it was given I/O in this session, or in the last one

    # ---- what a kind of controller brings

    @abstractmethod
    async def _read_config(self, features: int) -> Config:
        """The configuration as it is now."""

    @abstractmethod
    def _check_return(self, config: Config) -> None:
        """Raises ProtocolError if a device with that configuration can't take the I/O that was accepted before."""

    @abstractmethod
    async def _check_identity(self) -> None:
        """Raises ProtocolError unless a device that came back has the same disks. It runs; no I/O was submitted yet."""

    @abstractmethod
    async def _find_caches(self) -> None:
        """Look whether the disks' caches are volatile. The device came back and runs; no I/O yet."""

    @abstractmethod
    def _make_queues(self) -> list[RequestQueue]:
        """The request queues that were negotiated, spread over the pollers."""

    @abstractmethod
    def _broken(self, index: int) -> None:
        """Called when the device broke a queue's ring."""

    # ---- what is known of it

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def trtype(self) -> str:
        return self.request.trtype

    @property
    def traddr(self) -> str:
        return self.request.traddr

    @property
    def queues(self) -> list[QueueCounters]:
        return [q.counters() for q in self.all_queues]

    @property
    def all_queues(self) -> list[RequestQueue]:
        return [*self.service_queues, *self.request_queues]

    @property
    def vq_count(self) -> int:
        """How many of the device's virtqueues are in use."""
        return len(self.all_queues)

    @property
    def vq_size(self) -> int:
        return self.request_queues[0].size if self.request_queues else 0

    @property
    def unused(self) -> list[str]:
        """What the device has that can't be used, and why."""
        return []

    def description(self) -> VirtioDescription:
        """What SPDK's "virtio" object shows."""
        return VirtioDescription(vq_count=self.vq_count, vq_size=self.vq_size, **self.transport.info())

    def ring_size(self) -> int:
        """Entries of its rings: what was asked for, else the default, at most what the device takes."""
        if self.request_queues:
            return self.request_queues[0].size
        return self.request.vq_size or min(DEFAULT_VQ_SIZE, self.transport.max_queue_size())

    def _ring(self, index: int, what: str, max_segments: int = 1) -> RingSpec:
        """The ring of a queue, as negotiated. what: a part of its name in statistics."""
        return RingSpec(
            index,
            self.ring_size(),
            indirect=bool(self._features >> Feature.INDIRECT_DESC & 1),
            event_idx=bool(self._features >> Feature.EVENT_IDX & 1),
            max_segments=max_segments,
            name=f"{self.name}_{what}",
        )

    def kept_counters(self) -> KeptCounters:
        """Of all its bdevs."""
        return self.keeping.counters()

    def _make_channels(self) -> KeptChannels:
        """Of a new bdev."""
        channels = self.keeping.make_channels(self.context.pollers, self.context.buffers)
        channels.hold_by(self.holdings)
        return channels

    # ---- connecting

    async def _connect(self) -> None:
        self._served = False
        await self.transport.connect(CONNECT_DEADLINE_S)
        await self._negotiate()
        if not self.request_queues:
            self.request_queues = self._make_queues()
        self._regions = len(self.context.memory.regions)
        await self.transport.share_memory()
        for queue in self.all_queues:
            await self._start_queue(queue)
        await self.transport.driver_ok()
        if self.bdevs:  # what was in flight must not reach another disk
            await self._check_identity()
            await self._find_caches()  # held I/O must not take the mode of before

    async def _release(self) -> None:
        """Let go of the I/O that the queues hold since they were started."""
        self._served = True
        for queue in self.all_queues:
            await queue.release()

    async def _negotiate(self) -> None:
        """Agrees on features and reads the configuration. If the device came back, both must still suit the bdevs."""
        offered = self.transport.device_features()
        if self.dev_type == "scsi" and (hint := self._other_kind()):  # which might even seem to work, without units
            raise ProtocolError(f"{self.traddr}: {hint}")
        features = offered & sum(1 << bit for bit in self.wanted)
        missing = self._features & ~features
        if missing:
            names = feature_names(missing, self.dev_type)
            raise ProtocolError(f"{self.traddr}: the device came back without {names}")
        features = self._features or features
        await self.transport.acknowledge_features(features)
        if (entries := self.ring_size()) < MIN_VQ_SIZE:
            raise ProtocolError(f"{self.traddr}: the device's queues have {entries} entries, too few for a disk")
        config = await self._read_config(features)
        queues = self._queue_count(config)
        if queues < max(1, len(self.request_queues)):
            raise ProtocolError(f"{self.traddr}: the device has {counted(queues, 'request queue')}")
        if self._features:
            self._check_return(config)
        self._features = features
        self._config = config

    def _other_kind(self) -> str:
        """Says that the device is of another kind than was asked for, if its features show that; else ""."""
        kind = likely_kind(self.transport.device_features())
        if kind is None or kind == self.dev_type:
            return ""
        return f"the device looks like a virtio-{kind} one: try dev_type {kind}"

    def _queue_count(self, config: Config) -> int:
        """How many request queues to use: those asked for, else one for each poller; never more than the device has."""
        asked = self.request.vq_count or len(self.context.pollers)
        return min(asked, config.num_queues, self.transport.max_queues() - self.fixed_queues)

    async def _start_queue(self, queue: RequestQueue) -> None:
        index = queue.index
        queue.translate(self.transport.translation())
        queue.reset()
        bell = await self.transport.setup_queue(index, QueueLayout(queue.size, *queue.ring_addresses()))
        await self.transport.start_queue(index)
        on_broken = partial(self._broken, index)
        await queue.start(bell.kick_fd, bell.call_fd, on_broken, hold=True, kick_address=bell.kick_address)
