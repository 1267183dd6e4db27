"""The transport to a modelled device. Each step takes a while, and may fail in any way that a transport may."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.sim.handles import Device
from virtiod.core.errors import ConnectError, DeadlineError, LostError
from virtiod.core.memory import DmaMemory
from virtiod.transports.epoch import Epoch, Peer
from virtiod.transports.interface import Doorbell, QueueLayout, Transport
from virtiod.transports.table import DeviceKind, TransportKind
from virtiod.virtio.blk import CONFIG
from virtiod.virtio.features import BlkFeature, Feature

LINGER_S = 5.0  # for a process that was let go of
STEP_DEADLINE_S = 2.0  # for an answer, as clients of real devices have one


@dataclass
class Disk:
    """What a modelled device tells of itself, and whether it is there."""

    device: Device
    sectors: int
    features: int
    queues: int = 1
    max_ring: int = 64
    seg_max: int = 30
    size_max: int = 1 << 20
    hot_add: bool = True
    writeback: bool = True
    up: bool = True  # can be connected to
    mute: bool = False  # answers no step
    step_s: float = 0.0005  # at most, a step of the control plane
    stops: bool = True  # a queue when it is told to
    lingers: bool = False  # its process lives on when it is let go of
    peer: Peer = field(default_factory=partial(Peer, 1, 1))
    doubtful: list[Epoch] = field(default_factory=list)

    def end_process(self) -> None:
        """Whatever it still did ends; the next one is another process."""
        self.device.end_late()
        self.peer = Peer(1, self.peer.started + 1)
        for epoch in self.doubtful:
            epoch.die("its process ended")
        self.doubtful.clear()

    def config(self) -> bytes:
        """Its configuration space (§5.2.4)."""
        sectors = 1 << 20
        return CONFIG.pack(
            self.sectors, self.size_max, self.seg_max, 0, 0, 0, 512, 0, 0, 0, 0, self.writeback, self.queues,
            sectors, 1, 1, sectors, 1, 1,
        )  # fmt: skip


class SimTransport(Transport):
    """One connection after the other to a Disk."""

    def __init__(self, disk: Disk, memory: DmaMemory, chance: random.Random) -> None:
        self.disk = disk
        self._memory = memory
        self._chance = chance
        self._connected = False
        self._running = False
        self._features = 0
        self._told = 0  # end of the memory that it knows
        self._bells: dict[int, Doorbell] = {}
        self._lost: asyncio.Event = asyncio.Event()
        self._why = ""

    # ---- what happens to it

    def die(self, why: str) -> None:
        """The device hung up: its process ended, or will soon."""
        if self._connected and not self._lost.is_set():
            self._why = why
            self._lost.set()
            asyncio.get_running_loop().call_later(self._chance.random() * 0.001, self._tell, self._lost)

    def _tell(self, connection: asyncio.Event) -> None:
        if self._connected and connection is self._lost and self.on_lost:
            self.on_lost(LostError(self._why))

    async def _step(self) -> None:
        """Wait for the device's answer to one step."""
        if not self._connected:
            raise LostError("not connected")
        seconds = STEP_DEADLINE_S if self.disk.mute else self._chance.random() * self.disk.step_s
        lost, mute = self._lost, self.disk.mute
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lost.wait(), seconds)
        if lost.is_set():
            raise LostError(self._why)
        if mute:
            error = DeadlineError("no answer")
            if self.on_lost:
                self.on_lost(error)
            raise error

    # ---- the interface

    async def connect(self, timeout: float) -> None:
        assert not self._connected, "connected twice"
        await asyncio.sleep(self._chance.random() * self.disk.step_s)
        if not self.disk.up:
            raise ConnectError("nobody listens", self._chance.choice([errno.ENOENT, errno.ECONNREFUSED]))
        self._lost = asyncio.Event()
        self._connected = True
        self.disk.device.greet()
        self.epoch = Epoch("the device", self.disk.peer)
        self._unconfirmed: set[int] = set()
        self._running = False
        self._told = 0
        try:
            await self._step()
        except BaseException:
            await self.close()
            raise

    def device_features(self) -> int:
        return self.disk.features

    async def acknowledge_features(self, features: int) -> None:
        assert features & ~self.disk.features == 0
        assert features >> Feature.VERSION_1 & 1
        self._features = features
        await self._step()

    async def read_config(self, offset: int, size: int) -> bytes:
        await self._step()
        limited = self._features >> BlkFeature.SIZE_MAX & 1
        self.disk.device.set_limits(self.disk.seg_max, self.disk.size_max if limited else 1 << 30)
        return self.disk.config()[offset : offset + size]

    def max_queues(self) -> int:
        return self.disk.queues

    def max_queue_size(self) -> int:
        return self.disk.max_ring

    @property
    def memory_hot_add(self) -> bool:
        return self.disk.hot_add

    async def share_memory(self) -> None:
        end = self._memory.base + self._memory.size
        await self._step()
        if self.disk.hot_add or not self._running:
            self._told = max(self._told, end)
            self.disk.device.tell_memory(self._memory.base, self._told)

    async def setup_queue(self, index: int, layout: QueueLayout) -> Doorbell:
        await self._step()
        if index not in self._bells:
            kick, call = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
            self._bells[index] = Doorbell(kick_fd=kick, call_fd=call)
        bell = self._bells[index]
        self.disk.device.set_up(index, layout, self._features, bell)
        return bell

    async def start_queue(self, index: int) -> None:
        await self._step()
        self._running = True
        self._unconfirmed.add(index)
        self.disk.device.start(index)

    async def driver_ok(self) -> None:
        await self._step()

    async def stop_queue(self, index: int) -> int:
        await self._step()
        if not self.disk.stops:
            raise DeadlineError("no answer to GET_VRING_BASE")
        self._unconfirmed.discard(index)
        return self.disk.device.stop(index)

    async def close(self) -> None:
        if self._connected:
            self._connected = False
            self._end_epoch()
            self.disk.device.lost(True)
        self.drop()

    def _end_epoch(self) -> None:
        """Without a confirmation it is alive for a while, if it lingers; or else its process has ended."""
        assert self.epoch is not None
        if not self._unconfirmed:
            self.epoch.quiesce("it stopped")
        elif self.disk.lingers and not self._lost.is_set():
            self.epoch.doubt("its process lives")
            self.disk.doubtful.append(self.epoch)
            asyncio.get_running_loop().call_later(LINGER_S, self.disk.end_process)
        else:
            self.epoch.die("its process ended")

    def drop(self) -> None:
        """Give the doorbells back."""
        for bell in self._bells.values():
            os.close(bell.kick_fd)
            os.close(bell.call_fd)
        self._bells.clear()

    def info(self) -> dict[str, str]:
        return {"type": "sim"}


FEATURES: Sequence[int] = (Feature.VERSION_1, BlkFeature.SEG_MAX, BlkFeature.BLK_SIZE, BlkFeature.MQ)


def kind_of(disks: dict[str, Disk], chance: random.Random, made: dict[str, SimTransport]) -> type[TransportKind]:
    """A kind of transport that reaches these disks by their names; made: the last one for each."""

    class Sim(TransportKind):
        title = "simulated"
        max_vq_size = 64
        takes_queue_options = True

        def __init__(self, memory: DmaMemory, allow_unbind: bool, peer_grace_s: float) -> None:
            self._memory = memory

        @staticmethod
        def check_address(traddr: str) -> str:
            return traddr

        def transport(self, traddr: str, device: DeviceKind) -> Transport:
            made[traddr] = SimTransport(disks[traddr], self._memory, chance)
            return made[traddr]

    return Sim
