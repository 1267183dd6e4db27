"""A virtio device with its queues: connects, negotiates, starts, cuts off and stops it.

This is the same for every kind of controller and in every state; controller.py says when each is done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Generic, Protocol, TypeVar

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.bdev.keeping import KeptChannels, KeptCounters, OnLoss
from virtiod.controllers.description import VirtioDescription
from virtiod.controllers.repeat import Repetition
from virtiod.controllers.request import AttachRequest
from virtiod.core.counted import counted
from virtiod.core.errors import ProtocolError, VirtiodError
from virtiod.core.lograte import LogRate
from virtiod.core.memory import DmaMemory
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller
from virtiod.transports.interface import QueueLayout, Transport
from virtiod.virtio.features import Feature, feature_names
from virtiod.virtqueue.handle import QueueCounters, RequestQueue
from virtiod.virtqueue.spec import RingSpec

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 10.0  # for all of it, whatever the device does
DEFAULT_VQ_SIZE = 512
MIN_VQ_SIZE = 4  # entries of a ring: the smallest power of two that has room for header, data and status
DRAIN_DEADLINE_S = 5.0
STOP_DEADLINE_S = 2.0  # for the device to stop its queues


@dataclass(frozen=True)
class Context:
    """What controllers work with. buffers: of each poller. io_timeout_s 0: I/O may take for ever. allow_unbind: PCI
    devices may be taken from the kernel's driver."""

    memory: DmaMemory
    pollers: Sequence[Poller]
    buffers: Sequence[PollerBuffers]
    bdevs: BdevRegistry
    io_timeout_s: float
    allow_unbind: bool = False


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
        self.given_up = 0  # requests that were in flight when it was cut off for good
        self.bdevs: list[Bdev] = []
        self.service_queues: list[RequestQueue] = []  # those that carry no I/O
        self.request_queues: list[RequestQueue] = []
        self._losses = LogRate(log)
        self._regions = 0  # of DMA memory, when its queues were started

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

    # ---- connecting

    async def _connect(self) -> None:
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
        for queue in self.all_queues:
            await queue.release()

    async def _negotiate(self) -> None:
        """Agrees on features and reads the configuration. If the device came back, both must still suit the bdevs."""
        offered = self.transport.device_features()
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

    # ---- cutting off and stopping

    async def _cut_off(self) -> None:
        """Takes the queues off their pollers, then closes the transport: the device can answer nothing after that."""
        for queue in self.all_queues:
            await queue.stop()
        await self.transport.close()

    async def _stop_gently(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_DEADLINE_S):
                for queue in self.request_queues:
                    await queue.drain()
        except TimeoutError:
            log.warning("controller %s: I/O still in flight after %g s", self.name, DRAIN_DEADLINE_S)
        await self._settle()
        for queue in self.all_queues:
            await queue.stop()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                for queue in self.all_queues:
                    await self.transport.stop_queue(queue.index)
        except (TimeoutError, VirtiodError) as error:
            log.warning(
                "controller %s: the device did not stop its queues: %s", self.name, str(error) or "no answer in time"
            )

    async def _give_up(self, before_ns: int = 0) -> None:
        """Fails all I/O and all later I/O, or what was submitted before that time (ns). The device is cut off."""
        given_up = 0
        for _, channels in self._kept():
            await channels.fail_waiting(errno.ENODEV, before_ns)
        for queue in self.all_queues:
            failed = await queue.fail(errno.ENODEV, before_ns)
            given_up += failed if queue in self.request_queues else 0
        self.given_up += given_up
        if given_up:
            log.warning("controller %s: gave up %s in flight", self.name, counted(given_up, "request"))

    # ---- writes that are kept until they are stable

    def _make_channels(self) -> KeptChannels:
        """Of a new bdev."""
        channels = KeptChannels(list(self.context.pollers))
        channels.keep(list(self.context.buffers), self.request.on_loss)
        return channels

    def _kept(self) -> Iterator[tuple[Bdev, KeptChannels]]:
        for bdev in tuple(self.bdevs):  # one may be removed meanwhile
            if isinstance(bdev.channels, KeptChannels):
                yield bdev, bdev.channels

    @staticmethod
    def _holds_io(bdev: Bdev) -> bool:
        """Whether I/O, or a write that is kept, waits for the device."""
        channels = bdev.channels
        return bool(channels.oldest_ns() or (isinstance(channels, KeptChannels) and channels.kept_counters().records))

    def kept_counters(self) -> KeptCounters:
        """Of all its bdevs."""
        total = KeptCounters(0, 0, 0, 0, 0)
        for _, channels in self._kept():
            total += channels.kept_counters()
        return total

    async def _hold_kept(self) -> None:
        """The device is lost, and its queues are stopped."""
        for bdev, channels in self._kept():
            if await channels.hold():
                self._tell_loss(bdev, "acknowledged writes that were not flushed are lost with the device")

    async def _write_again(self) -> None:
        """The device came back, is the same disk and holds I/O: nothing that was acknowledged is to be missing."""
        await self._hold_kept()  # should it have failed when the device was cut off
        for bdev, channels in self._kept():
            if bdev.removing:  # another disk may be in its place
                if channels.unstable():
                    channels.count_loss()
                    self._tell_loss(bdev, "acknowledged writes of a disk that is being removed are lost")
                await channels.let_go()
                continue
            repetition = Repetition(channels, self.request_queues[0])
            try:
                await repetition.run()
            finally:
                channels.repeated += repetition.repeated
                if repetition.refused:
                    channels.count_loss()
                    self._tell_loss(bdev, f"the device refused {repetition.refused} acknowledged writes")
            await channels.let_go()
            if repetition.repeated:
                log.info("bdev %s: wrote %d kept writes again", bdev.name, repetition.repeated)

    async def _settle(self) -> None:
        """Flush what is kept. The device still runs, and has no other I/O."""
        await asyncio.gather(*(self._settle_bdev(bdev, channels) for bdev, channels in self._kept()))

    @staticmethod
    async def _settle_bdev(bdev: Bdev, channels: KeptChannels) -> None:
        try:
            async with asyncio.timeout(DRAIN_DEADLINE_S):
                stable = await channels.settle()
        except TimeoutError:
            stable = False
        if not stable:
            log.error("bdev %s: acknowledged writes could not be flushed before the device was left", bdev.name)

    async def _end_keeping(self, bdev: Bdev) -> None:
        """The bdev has no I/O any more."""
        if isinstance(bdev.channels, KeptChannels):
            lost = await bdev.channels.close_kept()
            if lost:
                log.error("bdev %s: gave up %d acknowledged writes that were not flushed", bdev.name, lost)

    def _tell_loss(self, bdev: Bdev, what: str) -> None:
        if self.request.on_loss is OnLoss.IGNORE:
            self._losses.say(logging.WARNING, (bdev.name, what), "bdev %s: %s", bdev.name, what)
            return
        message = "bdev %s: %s: the next flush of each of its users fails"
        self._losses.say(logging.ERROR, (bdev.name, what), message, bdev.name, what)
        self.context.bdevs.tell_loss(bdev)
