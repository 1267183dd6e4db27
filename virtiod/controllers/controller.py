"""The state machine that every kind of controller shares.

A controller that loses its device keeps its bdevs and their I/O, and connects again; what was in flight is submitted
again then, what waited longer than the I/O timeout fails. Detach always ends, and says what it gave up.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from virtiod.bdev import Bdev, BdevRegistry
from virtiod.controllers.request import AttachRequest
from virtiod.core.errors import DeadlineError, DeviceError, NotFound, ProtocolError, RemovedError, VirtiodError
from virtiod.core.memory import DmaMemory
from virtiod.core.saved import SavedCall
from virtiod.core.tasks import cancel, spawn
from virtiod.poller.poller import Poller
from virtiod.transports.interface import QueueLayout, Transport
from virtiod.virtio.features import Feature, feature_names
from virtiod.virtqueue.handle import QueueCounters, RequestQueue
from virtiod.virtqueue.spec import RingSpec

log = logging.getLogger(__name__)

ATTACH_DEADLINE_S = 10.0  # for all of attach, whatever the device does
DEFAULT_VQ_SIZE = 512
DRAIN_DEADLINE_S = 5.0
LEAVE_STEP_S = 0.05  # between failures of I/O that users of a lost device wait for
STOP_DEADLINE_S = 2.0  # for the device to stop its queues
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
STEADY_S = 10.0  # up for so long, a controller starts again with the shortest back-off


class State(enum.StrEnum):
    ATTACHING = "attaching"
    UP = "up"
    RECONNECTING = "reconnecting"
    DETACHING = "detaching"
    GONE = "gone"


@dataclass(frozen=True)
class Context:
    """What controllers work with. io_timeout_s 0: I/O may take for ever. allow_unbind: PCI devices."""

    memory: DmaMemory
    pollers: Sequence[Poller]
    bdevs: BdevRegistry
    io_timeout_s: float
    allow_unbind: bool = False


class DeviceConfig(Protocol):
    """What every kind's configuration has."""

    @property
    def num_queues(self) -> int:
        """Request queues of the device."""


Config = TypeVar("Config", bound=DeviceConfig)


class Controller(ABC, Generic[Config]):
    """One controller. The manager calls attach() once, detach() once; between them it lives by itself."""

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
        self.state = State.ATTACHING
        self.reconnects = 0
        self.io_timeouts = 0
        self.given_up = 0  # requests that were in flight when it was detached
        self.last_error = ""
        self.bdevs: list[Bdev] = []
        self.service_queues: list[RequestQueue] = []  # those that carry no I/O
        self.request_queues: list[RequestQueue] = []
        self.on_state: Callable[[Controller[Any]], None] | None = None
        self.on_removed: Callable[[Controller[Any]], None] | None = None  # has it detached: the device won't be back
        self._loss: asyncio.Future[DeviceError] | None = None  # while it is not up: ended by the device's end
        self._returning: asyncio.Task[None] | None = None
        self._up_since = 0.0
        self._attempt = 0
        self._regions = 0  # of DMA memory, when its queues were started
        self._changing = asyncio.Lock()  # configuration changes, one after the other

    # ---- what a kind of controller brings

    @abstractmethod
    async def _read_config(self, features: int) -> Config:
        """The configuration as it is now."""

    @abstractmethod
    def _check_return(self, config: Config) -> None:
        """Raise ProtocolError if a device with that configuration can't take the I/O that was accepted before."""

    @abstractmethod
    async def _check_identity(self) -> None:
        """Raise ProtocolError unless the disks are those that they were. The device came back and runs; no I/O yet."""

    @abstractmethod
    def _make_queues(self) -> list[RequestQueue]:
        """Request queues of what was negotiated, spread over the pollers; index in the device: queue_index()."""

    @abstractmethod
    async def _find_bdevs(self) -> None:
        """Register the bdevs that there are, each as soon as it is known. The device runs."""

    @abstractmethod
    async def _config_changed(self) -> None:
        """Read the configuration again and tell the bdevs."""

    def _register(self, bdev: Bdev) -> None:
        self.context.bdevs.register(bdev)
        self.bdevs.append(bdev)

    async def _end_tasks(self) -> None:
        """End what the kind of controller does by itself; it starts nothing new."""

    def queue_index(self, queue: RequestQueue) -> int:
        """The queue's number in the device."""
        return queue.index

    def ring_size(self) -> int:
        """Entries of its rings: what was asked for, else a usual number, as far as the device takes it."""
        if self.request_queues:
            return self.request_queues[0].size
        return self.request.vq_size or min(DEFAULT_VQ_SIZE, self.transport.max_queue_size())

    def _ring(self, index: int, what: str, max_segments: int = 1) -> RingSpec:
        """The ring of a queue, as was negotiated. what: for its name in statistics."""
        return RingSpec(
            index,
            self.ring_size(),
            indirect=bool(self._features >> Feature.INDIRECT_DESC & 1),
            event_idx=bool(self._features >> Feature.EVENT_IDX & 1),
            max_segments=max_segments,
            name=f"{self.name}_{what}",
        )

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
        """All of the device's virtqueues in use."""
        return len(self.all_queues)

    @property
    def vq_size(self) -> int:
        return self.request_queues[0].size if self.request_queues else 0

    def virtio_info(self) -> dict[str, Any]:
        """SPDK's "virtio" object."""
        return {"vq_count": self.vq_count, "vq_size": self.vq_size, **self.transport.info()}

    def saved_call(self, with_queues: bool) -> SavedCall:
        """The call that attaches it.

        with_queues: with its queues as they are. While it is not there they are as they were asked for.
        """
        params: dict[str, object] = {
            "name": self.name,
            "dev_type": self.dev_type,
            "trtype": self.trtype,
            "traddr": self.traddr,
        }
        if self.state == State.ATTACHING:
            asked = {"vq_count": self.request.vq_count, "vq_size": self.request.vq_size}
            params |= {name: value for name, value in asked.items() if value is not None}
        elif with_queues:
            params |= {"vq_count": self.vq_count - self.fixed_queues, "vq_size": self.vq_size}
        return SavedCall("bdev_virtio_attach_controller", params)

    def _enter(self, state: State, why: str = "") -> None:
        if state is self.state:
            return
        # A device that is waited for may be tried many times: that it is absent has been logged.
        level = logging.INFO if self._up_since or not self.request.wait_for_device else logging.DEBUG
        log.log(level, "controller %s: %s -> %s%s", self.name, self.state, state, f" ({why})" if why else "")
        self.state = state
        if self.on_state:
            self.on_state(self)

    # ---- attach

    async def attach(self) -> list[str]:
        """Bring it up and register its bdevs; their names. On failure nothing is left behind."""
        try:
            async with asyncio.timeout(ATTACH_DEADLINE_S):
                await self._unless_lost(self._first_time())
        except TimeoutError:
            await self._abandon()
            raise DeadlineError(f"{self.traddr}: not attached within {ATTACH_DEADLINE_S:g} s") from None
        except BaseException:
            await self._abandon()
            raise
        self.transport.on_config_change = self._config_change
        self._up_since = time.monotonic()
        self._enter(State.UP)
        await self.share_memory()  # it may have grown since it was shared first
        return [b.name for b in self.bdevs]

    async def _first_time(self) -> None:
        await self._connect_and_start()
        await self._find_bdevs()

    async def _unless_lost(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; if the device is lost meanwhile, end it and raise why."""
        self._loss = asyncio.get_running_loop().create_future()
        self.transport.on_lost = self._lost
        task = spawn(work, f"attach {self.name}", awaited=True)
        try:
            either: set[asyncio.Future[Any]] = {task, self._loss}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            if self._loss.done():  # perhaps just after the work was: nobody else would hear of it
                raise self._loss.result()
        finally:
            self._loss.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _connect_and_start(self) -> None:
        await self.transport.connect(ATTACH_DEADLINE_S)
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
        for queue in self.all_queues:
            await queue.release()

    async def _negotiate(self) -> None:
        """Agree on features and read the configuration. On a return both must still suit the bdevs."""
        offered = self.transport.device_features()
        features = offered & sum(1 << bit for bit in self.wanted)
        missing = self._features & ~features
        if missing:
            names = feature_names(missing, self.dev_type)
            raise ProtocolError(f"{self.traddr}: the device came back without {names}")
        features = self._features or features
        await self.transport.acknowledge_features(features)
        config = await self._read_config(features)
        queues = self._queue_count(config)
        if queues < max(1, len(self.request_queues)):
            raise ProtocolError(f"{self.traddr}: the device has {queues} request queues")
        if self._features:
            self._check_return(config)
        self._features = features
        self._config = config

    def _queue_count(self, config: Config) -> int:
        """As many request queues as were asked for, else one for each poller; never more than the device has."""
        asked = self.request.vq_count or len(self.context.pollers)
        return min(asked, config.num_queues, self.transport.max_queues() - self.fixed_queues)

    async def _start_queue(self, queue: RequestQueue) -> None:
        index = self.queue_index(queue)
        queue.translate(self.transport.translation())
        queue.reset()
        bell = await self.transport.setup_queue(index, QueueLayout(queue.size, *queue.ring_addresses()))
        await self.transport.start_queue(index)
        on_broken = partial(self._broken, index)
        await queue.start(bell.kick_fd, bell.call_fd, on_broken, hold=True, kick_address=bell.kick_address)

    async def _abandon(self) -> None:
        """Undo whatever attach did."""
        self._enter(State.DETACHING)
        await self._end_tasks()
        await self._end_users_unanswered()
        await self._end()

    # ---- loss and return

    def _broken(self, index: int) -> None:
        self._lost(ProtocolError(f"{self.traddr}: queue {index}: the device wrote an invalid used ring"))

    def _lost(self, error: DeviceError) -> None:
        """The device is gone, or as good as gone: cut it off, and try to get it back."""
        if self.state is not State.UP:
            if self._loss is not None and not self._loss.done():
                self._loss.set_result(error)
            return
        if isinstance(error, RemovedError):
            self._removed(error)
            return
        self.last_error = str(error)
        self._enter(State.RECONNECTING, str(error))
        self._attempt = 0 if time.monotonic() - self._up_since > STEADY_S else self._attempt
        self._returning = spawn(self._return(), f"reconnect {self.name}")

    def _removed(self, error: VirtiodError) -> None:
        """The device was taken out: there is nothing to come back to."""
        if self.state is State.DETACHING:
            return
        self.last_error = str(error)
        self._enter(State.DETACHING, str(error))
        if self.on_removed:
            self.on_removed(self)

    async def _return(self) -> None:
        await self._cut_off()
        await self._expire()
        while True:
            await asyncio.sleep(BACKOFF_S[min(self._attempt, len(BACKOFF_S) - 1)])
            self._attempt += 1
            try:
                async with asyncio.timeout(ATTACH_DEADLINE_S):
                    await self._unless_lost(self._connect_and_start())
                break
            except (RemovedError, NotFound) as error:
                self._removed(error)
                return
            except (VirtiodError, TimeoutError, OSError) as error:
                message = str(error) or f"{self.traddr}: no answer within {ATTACH_DEADLINE_S:g} s"
                if message != self.last_error:
                    log.warning("controller %s: %s", self.name, message)
                self.last_error = message
                await self._cut_off()
        self.reconnects += 1
        self._up_since = time.monotonic()
        self._returning = None
        self._enter(State.UP, "reconnected")
        await self.share_memory()
        self._config_change()

    async def _cut_off(self) -> None:
        """Take the queues off their pollers, then let go of the device: from here on it can answer nothing."""
        for queue in self.all_queues:
            await queue.stop()
        await self.transport.close()

    # ---- supervision

    async def supervise(self) -> None:
        """Called by the manager now and then: I/O that waited too long fails, and its device is cut off."""
        before = self._expired_before()
        if not self._overdue(before):
            return
        if self.state is State.UP:
            seconds = self.context.io_timeout_s
            self._lost(DeadlineError(f"{self.traddr}: the device did not answer an I/O within {seconds:g} s"))
        elif self.state is State.RECONNECTING:
            await self._expire()

    def _overdue(self, before: int) -> bool:
        """Whether an I/O is in flight since before that time (CLOCK_MONOTONIC, ns)."""
        return any(0 < b.channels.oldest_ns() < before for b in self.bdevs)

    def _expired_before(self) -> int:
        """I/O submitted before this time (CLOCK_MONOTONIC, ns) waited too long; 0: none does."""
        timeout_ns = int(self.context.io_timeout_s * 1e9)
        return max(0, time.monotonic_ns() - timeout_ns) if timeout_ns else 0

    async def _expire(self) -> None:
        """Fail what waited too long. The device is cut off; it had the time to answer, it gets no second one."""
        before = self._expired_before()
        for queue in self.request_queues:
            if before and queue.stopped:
                self.io_timeouts += await queue.fail(errno.ETIMEDOUT, before)

    async def share_memory(self) -> None:
        """DMA memory grew: tell the device before it sees an address there."""
        if self.state is not State.UP and not (self.state is State.ATTACHING and self.bdevs):
            return  # told when it comes back
        if self.transport.memory_hot_add or len(self.context.memory.regions) == self._regions:
            await self.transport.share_memory()
        else:
            self._lost(DeviceError(f"{self.traddr}: DMA memory grew, the back-end can't take more while it runs"))

    def _config_change(self) -> None:
        spawn(self._reconfigure(), f"reconfigure {self.name}")

    async def _reconfigure(self) -> None:
        async with self._changing:
            if self.state is not State.UP:
                return
            try:
                await self._config_changed()
            except VirtiodError as error:
                log.warning("controller %s: configuration change: %s", self.name, error)

    # ---- detach

    async def detach(self) -> None:
        """End it, within deadlines: users leave, I/O drains, the device stops, memory goes back."""
        was_up = self.state is State.UP
        self._enter(State.DETACHING)
        await self._end_tasks()
        await cancel(self._returning)
        self._returning = None
        if was_up:
            await asyncio.gather(*self._leave())
            await self._stop_gently()
        else:
            await self._end_users_unanswered()
        await self._end()

    async def _end_users_unanswered(self) -> None:
        """Cut the device off and end the use of its bdevs: nobody will answer what users wait for."""
        leaving = asyncio.gather(*self._leave())
        await self._cut_off()
        while not (await asyncio.wait({leaving}, timeout=LEAVE_STEP_S))[0]:
            await self._give_up(time.monotonic_ns())
        await leaving

    def _leave(self) -> list[Awaitable[None]]:
        """What ends the use of its bdevs."""
        return [self.context.bdevs.unregister(bdev) for bdev in self.bdevs]

    async def _stop_gently(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_DEADLINE_S):
                for queue in self.request_queues:
                    await queue.drain()
        except TimeoutError:
            log.warning("controller %s: I/O still in flight after %g s", self.name, DRAIN_DEADLINE_S)
        for queue in self.all_queues:
            await queue.stop()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                for queue in self.all_queues:
                    await self.transport.stop_queue(self.queue_index(queue))
        except (TimeoutError, VirtiodError) as error:
            log.warning("controller %s: stop: %s", self.name, str(error) or "no answer in time")

    async def _end(self) -> None:
        await self._cut_off()
        await self._give_up()
        for queue in self.all_queues:
            queue.close()
        await self.transport.release()
        self._enter(State.GONE)

    async def _give_up(self, before_ns: int = 0) -> None:
        """Fail all I/O, and all that comes, or what was submitted before that time. The device is cut off."""
        given_up = 0
        for queue in self.all_queues:
            failed = await queue.fail(errno.ENODEV, before_ns)
            given_up += failed if queue in self.request_queues else 0
        self.given_up += given_up
        if given_up:
            log.warning("controller %s: gave up %d requests in flight", self.name, given_up)
