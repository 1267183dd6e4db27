"""How a controller is reached: the interface that every transport implements.

The life of a transport, as the controllers layer drives it, on the event loop:

    connect -> device_features -> acknowledge_features -> read_config -> share_memory
            -> setup_queue, start_queue for each queue -> driver_ok -> (I/O, on the pollers)
            -> stop_queue for each queue -> close -> release

After `on_lost` (and close) the same object may be connected again, and the sequence starts again; the doorbells stay
the same, so that pollers keep theirs. Only control passes through here: an I/O uses the rings and the doorbell,
nothing else.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from virtiod.core.errors import DeviceError
from virtiod.core.memory import Translation
from virtiod.transports.epoch import Epoch


class QueueLayout(NamedTuple):
    """Where a virtqueue lies (addresses in DMA memory) and the available index that it starts from."""

    size: int
    desc: int
    avail: int
    used: int
    base: int = 0


class Doorbell(NamedTuple):
    """How a poller and the device wake each other up. Owned by the transport, valid until its close().

    call_fd -1: the device can't interrupt, and a poller with requests on it polls again after at most 20 ms.
    """

    kick_fd: int = -1  # an eventfd to write to, or
    kick_address: int = 0  # a mapped 16-bit register to store the queue's index into
    call_fd: int = -1  # an eventfd that the device signals; -1 when it can't interrupt


class Arrivals:
    """Tells when a device may have come to where it is looked for, from its creation to close().

    This one can't tell, and lets time pass.
    """

    async def wait(self, seconds: float) -> bool:
        """Whether something has come since the last call: as soon as it has, or after so many seconds."""
        await asyncio.sleep(seconds)
        return False

    def close(self) -> None:
        """Idempotent."""


class Transport(ABC):
    """One controller's way to its device. Failures are DeviceErrors whose message names the device.

    Every wait has a deadline. A coroutine that was cancelled or ran into its deadline leaves the connection
    unusable (what the device will answer is unknown): connect again, or close.
    """

    # Set by the controller. Called on the event loop, between connect() and close(); on_lost at most once a
    # connection, as soon as the device closes it, breaks the protocol, fails to answer, or marks a ring broken. A
    # RemovedError says that it was removed: nobody connects again, the controller ends.
    on_config_change: Callable[[], None] | None = None
    on_lost: Callable[[DeviceError], None] | None = None
    epoch: Epoch | None = None  # of the session that connect() began; after close() it says how that ended

    @abstractmethod
    async def connect(self, timeout: float) -> None:
        """Connects to the device and learns what it offers, in `timeout` seconds. A failure leaves nothing behind.

        Raises NotFound or RemovedError when there is no such device, and trying again is of no use.
        """

    def arrivals(self) -> Arrivals:
        """What tells when to connect again. The caller closes it. Raises nothing."""
        return Arrivals()

    @abstractmethod
    def device_features(self) -> int:
        """The virtio feature bits that the device offers (virtio 1.2 §6); VERSION_1 is always among them."""

    @abstractmethod
    async def acknowledge_features(self, features: int) -> None:
        """Accepts a subset of device_features(). Called once a connection, before any queue is set up."""

    @abstractmethod
    async def read_config(self, offset: int, size: int) -> bytes:
        """Reads size bytes of the configuration; fewer where the device's ends. NotSupported if it has none."""

    @abstractmethod
    def max_queues(self) -> int:
        """How many queues the device can serve, at least 1; its configuration may still say fewer."""

    @abstractmethod
    def max_queue_size(self) -> int:
        """The largest ring that each queue takes, in entries, a power of two."""

    @property
    @abstractmethod
    def memory_hot_add(self) -> bool:
        """Whether share_memory() may be called while queues run. If not, the controller stops them first."""

    @abstractmethod
    async def share_memory(self) -> None:
        """Tells the device of every region that it does not know yet.

        Called before the first queue is set up, and whenever the memory grew: a device must not see an
        address of a region before this returned.
        """

    def translation(self) -> Translation:
        """How the device addresses DMA memory. Rings are given as this process sees them (QueueLayout)."""
        return Translation()

    @abstractmethod
    async def setup_queue(self, index: int, layout: QueueLayout) -> Doorbell:
        """Describes a stopped queue to the device. The ring's memory must stay until it is stopped or lost."""

    @abstractmethod
    async def start_queue(self, index: int) -> None:
        """Lets the device serve a queue that was set up."""

    @abstractmethod
    async def driver_ok(self) -> None:
        """Tells the device that the driver is ready. Called once a connection, when all queues have been started."""

    @abstractmethod
    async def stop_queue(self, index: int) -> int:
        """Stops a queue; returns the available index from which the device would resume, 0 if it can't tell. It can be
        set up again, unless its device can only be stopped as a whole, which close() does.

        Called by the controller before each close(): when nothing is in flight any more, or the device is given up. A
        queue that does not run is left as it is.
        """

    @abstractmethod
    async def close(self) -> None:
        """Releases the device and the doorbells. Idempotent; waits at most for a reset, with a deadline of its own.

        The epoch then is over, or possibly alive: if a queue was not stopped, and the device not reset.

        Pollers must have given up their doorbells before: file descriptors and registers are gone after this.
        """

    async def release(self) -> None:  # noqa: B027
        """Gives the device back to the driver that it was taken from, after the last close(): the controller ends.

        Raises nothing; what fails is logged.
        """

    def cut_off(self) -> None:  # noqa: B027
        """Keeps the device from memory at once: the process ends without close(). Raises nothing.

        Needed where the end of the process leaves the device running.
        """

    @abstractmethod
    def info(self) -> dict[str, str]:
        """What RPC shows of the transport: "type", and where the device is."""
