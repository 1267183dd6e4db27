"""The Transport of a vhost-user controller."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from functools import partial

from virtiod.core.errors import DeviceError, InvalidArgument, LostError, NotSupported, ProtocolError
from virtiod.core.memory import DmaMemory, Region
from virtiod.core.tasks import finish
from virtiod.transports.epoch import PEER_GRACE_S, Epoch
from virtiod.transports.interface import Arrivals, Doorbell, QueueLayout, Transport
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.arrivals import SocketArrivals
from virtiod.transports.vhost_user.client import Client, open_socket
from virtiod.transports.vhost_user.connection import Channel, close_fds
from virtiod.transports.vhost_user.lingering import Lingering
from virtiod.transports.vhost_user.process import PeerProcess, peer_process
from virtiod.transports.vhost_user.wire import MemoryRegion, ProtocolFeature
from virtiod.virtio.blk import CONFIG_SIZES
from virtiod.virtio.features import Feature, feature_names
from virtiod.virtio.status import Status

# Features that are asked for when the back-end offers them.
WANTED = (
    1 << ProtocolFeature.MQ
    | 1 << ProtocolFeature.REPLY_ACK
    | 1 << ProtocolFeature.BACKEND_REQ
    | 1 << ProtocolFeature.CONFIG
    | 1 << ProtocolFeature.CONFIGURE_MEM_SLOTS
    | 1 << ProtocolFeature.STATUS
)

MESSAGE_TIMEOUT = 5.0  # seconds
ALL_STOPPED = "all its rings were stopped"
MAX_LINGERING = 16  # connections of one transport that were left, and may still say that the back-end has stopped
DRAIN_S = 2.0  # for a back-end that stopped its rings to end what it has begun, and the connection
EXIT_S = 0.25  # between the end of a connection and that of its process, when it was killed


class _Queue:
    """The eventfds of one queue, and whether it runs."""

    def __init__(self) -> None:
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.err_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.running = False
        self.ran = False  # in this session


def _drained(eventfd: int) -> bool:
    """Empties an eventfd, and returns whether there was anything in it. The back-end, which shares it, can have read it
    before, and can have made it block."""
    try:
        os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True


def _make_usable(eventfd: int) -> None:
    """Undoes what a back-end that had it before may have done to it."""
    os.set_blocking(eventfd, False)
    _drained(eventfd)


class VhostUserTransport(Transport):
    """`config_sizes` are the sizes that the device's configuration may have, in the order to try them;
    `queues_without_mq` how many queues a device of its kind has that can't tell. `peer_grace`: seconds from when a
    back-end whose process can't be seen has closed the connection until it counts as gone."""

    def __init__(
        self,
        path: str,
        memory: DmaMemory,
        *,
        config_sizes: Sequence[int] = CONFIG_SIZES,
        queues_without_mq: int = 1,
        message_timeout: float = MESSAGE_TIMEOUT,
        peer_grace: float = PEER_GRACE_S,
    ) -> None:
        self._path = path
        self._memory = memory
        self._config_sizes = list(config_sizes)
        self._sizes: list[int] = []  # sizes that this connection has not refused; the known one alone
        self._timeout = message_timeout
        self._peer_grace = peer_grace
        self._process: PeerProcess | None = None
        self._client: Client | None = None
        self._lingering: list[Lingering] = []
        self._offered = 0
        self._acknowledged: int | None = None
        self._queues_without_mq = queues_without_mq
        self._queue_num = queues_without_mq
        self._slots = wire.MAX_TABLE_REGIONS
        self._shared: list[Region] = []
        self._sharing = asyncio.Lock()
        self._queues: dict[int, _Queue] = {}

    # ---- connecting

    async def connect(self, timeout: float) -> None:
        await self._hang_up()
        self._acknowledged = None
        self._sizes = list(self._config_sizes)
        deadline = asyncio.get_running_loop().time() + timeout
        await self._open(deadline)
        # From here on a loss is reported to the controller, not by an error of connect().
        self._watch(self._peer())

    async def _open(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        client = self._client = await self._new_client(max(0.0, deadline - loop.time()))
        client.deadline = deadline
        try:
            await self._negotiate(client)
        except BaseException:
            await self._hang_up()
            raise
        client.deadline = None

    async def _new_client(self, timeout: float) -> Client:
        sock = await open_socket(self._path, timeout)
        process = self._process = peer_process(sock)
        self.epoch = Epoch(self._path, None if process is None else process.peer)
        return Client(Channel(sock), self._path, self._timeout)

    async def _negotiate(self, client: Client) -> None:
        await client.set_owner()
        self._offered = await client.get_features()
        if not self._offered >> Feature.VERSION_1 & 1:
            offered = feature_names(self._offered)
            raise ProtocolError(f"{self._path}: the device offers no VERSION_1 (features {offered})")
        if self._offered & wire.F_PROTOCOL_FEATURES:
            offer = await client.get_protocol_features()
            await client.set_protocol_features(offer & WANTED)
        self._queue_num = self._queues_without_mq
        if client.agreed(ProtocolFeature.MQ):
            self._queue_num = min(await client.get_queue_num(), wire.MAX_QUEUES)
            if self._queue_num == 0:
                raise ProtocolError(f"{self._path}: GET_QUEUE_NUM: the device has 0 queues")
        self._slots = wire.MAX_TABLE_REGIONS
        if client.agreed(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            self._slots = await client.get_max_mem_slots()
        if client.agreed(ProtocolFeature.BACKEND_REQ):
            await client.set_backend_req_fd()
        if client.agreed(ProtocolFeature.STATUS):
            await client.set_status(0)
            await client.set_status(Status.ACKNOWLEDGE | Status.DRIVER)

    def _watch(self, client: Client) -> None:
        client.on_config_change = self._config_changed
        client.on_lost = self._lost
        if client.lost is not None:
            asyncio.get_running_loop().call_soon(self._lost, client.lost)

    def _config_changed(self) -> None:
        if self.on_config_change is not None:
            self.on_config_change()

    def _lost(self, error: DeviceError) -> None:
        if self.on_lost is not None:
            self.on_lost(error)

    def _peer(self) -> Client:
        if self._client is None:
            raise LostError(f"{self._path}: not connected")
        return self._client

    async def _hang_up(self) -> None:
        """What has begun is ended, though the caller may be cancelled: or nobody would know what the device may use."""
        client, self._client = self._client, None
        if client is not None:
            await finish(self._leave(client), f"leave {self._path}")

    async def _leave(self, client: Client) -> None:
        await self._settle(client, await self._part(client))
        for queue in self._queues.values():
            queue.running = queue.ran = False
        self._shared.clear()

    def arrivals(self) -> Arrivals:
        return SocketArrivals(self._path)

    async def _part(self, client: Client) -> Lingering | None:
        """Close the connection, or have it linger: a back-end that only hung stops its rings when it resumes.

        One that stopped all of them has this moment to end the I/O that it has begun, and then the connection.
        """
        if not any(queue.ran for queue in self._queues.values()):
            await client.close()
            return None
        assert self.epoch is not None
        running = [index for index, queue in self._queues.items() if queue.running]
        reason = "it stopped its rings late" if running else ALL_STOPPED
        lingering = await client.part(running, partial(self.epoch.quiesce, reason))
        if lingering is not None:
            self._lingering = [each for each in self._lingering if not each.closed]
            self._lingering.append(lingering)
            for each in self._lingering[:-MAX_LINGERING]:
                each.close()
            if not running:
                await lingering.wait(DRAIN_S)
        return lingering

    async def _settle(self, client: Client, lingering: Lingering | None) -> None:
        """Say what the back-end may still do: the connection has ended."""
        epoch, process, self._process = self.epoch, self._process, None
        assert epoch is not None
        watching = contextlib.ExitStack()
        if process is not None:
            watching.callback(process.close)
        if lingering is not None:
            watching.callback(lingering.close)
        running = any(queue.running for queue in self._queues.values())
        what = "did not stop its rings" if running else "stopped its rings, but did not end the connection"
        reason = f"it {what}, and its process can't be seen"
        if not any(queue.ran for queue in self._queues.values()) or (client.hung_up and not running):
            epoch.quiesce(ALL_STOPPED)
        elif process is not None and process.ended:
            epoch.die(f"process {process.pid} has ended")
        elif process is not None:
            name = str(process)
            process.on_end(partial(epoch.die, f"{name} has ended"))
            reason = f"{name} {what}, and still runs"
        elif client.hung_up:
            reason = "it closed the connection, and its process can't be seen"
            grace = asyncio.get_running_loop().call_later(self._peer_grace, epoch.die, reason)
            watching.callback(grace.cancel)
            reason = f"{reason}; it counts as gone after {self._peer_grace:g} s"
        epoch.doubt(reason, watching.close)
        if client.hung_up and process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_S):
                    await epoch.wait_over()

    # ---- features and configuration

    def device_features(self) -> int:
        return self._offered & ~(wire.F_PROTOCOL_FEATURES | wire.F_LOG_ALL)

    async def acknowledge_features(self, features: int) -> None:
        excess = features & ~self.device_features()
        if excess:
            raise InvalidArgument(f"{self._path}: features {feature_names(excess)} are not offered")
        self._acknowledged = features
        client = self._peer()
        await client.set_features(features | self._offered & wire.F_PROTOCOL_FEATURES)
        if client.agreed(ProtocolFeature.STATUS):
            await client.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
            status = await client.get_status()
            if not status & Status.FEATURES_OK:
                names = feature_names(features)
                raise ProtocolError(f"{self._path}: the device refused FEATURES_OK for {names} (status {status:#x})")

    async def read_config(self, offset: int, size: int) -> bytes:
        # Always read as a whole: some back-ends ignore the offset.
        if not self._peer().agreed(ProtocolFeature.CONFIG):
            raise NotSupported(f"{self._path}: the back-end lacks CONFIG, so it has no configuration to read")
        tried = []
        while True:
            tried.append(self._sizes[0])
            data = await self._get_config(self._sizes[0], last=len(self._sizes) == 1)
            if data is not None:
                del self._sizes[1:]
                self._config_sizes.sort(key=lambda size: size != self._sizes[0])  # first, after a reconnect
                return data[offset : offset + size]
            if len(self._sizes) == 1:
                sizes = ", ".join(map(str, tried))
                raise ProtocolError(f"{self._path}: GET_CONFIG: refused for a size of {sizes} bytes")
            del self._sizes[0]

    async def _get_config(self, size: int, last: bool) -> bytes | None:
        """Reads the configuration; None when refused. If the back-end closes the connection instead, connects again."""
        client = self._peer()
        if last or client.lost is not None or self._shared:
            return await client.get_config(0, size)
        client.on_lost = None
        try:
            data = await client.get_config(0, size)
        except LostError:
            await self._hang_up()
            await self._open(asyncio.get_running_loop().time() + self._timeout)
            if self._acknowledged is not None:
                await self.acknowledge_features(self._acknowledged & self.device_features())
            data = None
        self._watch(self._peer())
        return data

    def max_queues(self) -> int:
        return self._queue_num

    def max_queue_size(self) -> int:
        return wire.BACKEND_QUEUE_SIZE

    # ---- memory

    @property
    def memory_hot_add(self) -> bool:
        return self._peer().agreed(ProtocolFeature.CONFIGURE_MEM_SLOTS)

    async def share_memory(self) -> None:
        async with self._sharing:
            await self._share(self._peer(), list(self._memory.regions))

    async def _share(self, client: Client, regions: list[Region]) -> None:
        if len(regions) > self._slots:
            raise NotSupported(f"{self._path}: DMA memory has {len(regions)} regions, the back-end takes {self._slots}")
        if client.agreed(ProtocolFeature.CONFIGURE_MEM_SLOTS):
            for region in regions[len(self._shared) :]:
                await client.add_mem_reg(self._describe(region), region.fd)
                self._shared.append(region)
        elif len(regions) > len(self._shared):
            table = [self._describe(region) for region in regions]
            await client.set_mem_table(table, [region.fd for region in regions])
            self._shared = regions

    @staticmethod
    def _describe(region: Region) -> MemoryRegion:
        return MemoryRegion(region.address, region.size, region.address, region.offset)

    # ---- queues

    async def setup_queue(self, index: int, layout: QueueLayout) -> Doorbell:
        client = self._peer()
        if not 0 <= index < self._queue_num:
            raise InvalidArgument(f"{self._path}: queue {index} is not among the device's {self._queue_num}")
        queue = self._queues.get(index)
        if queue is None:
            queue = self._queues[index] = _Queue()
            asyncio.get_running_loop().add_reader(queue.err_fd, self._ring_broken, index, queue)
        _make_usable(queue.kick_fd)
        await client.set_vring_num(index, layout.size)
        await client.set_vring_base(index, layout.base)
        await client.set_vring_addr(index, layout.desc, layout.avail, layout.used)
        await client.set_vring_err(index, queue.err_fd)
        await client.set_vring_call(index, queue.call_fd)
        return Doorbell(kick_fd=queue.kick_fd, call_fd=queue.call_fd)

    async def start_queue(self, index: int) -> None:
        client, queue = self._peer(), self._queues[index]
        queue.running = queue.ran = True
        await client.set_vring_kick(index, queue.kick_fd)
        if self._offered & wire.F_PROTOCOL_FEATURES:
            await client.set_vring_enable(index, True)

    async def driver_ok(self) -> None:
        client = self._peer()
        if client.agreed(ProtocolFeature.STATUS):
            status = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
            await client.set_status(status)

    async def stop_queue(self, index: int) -> int:
        queue = self._queues.get(index)
        if queue is None or not queue.running:
            return 0
        base = await self._peer().get_vring_base(index)
        queue.running = False
        return base

    def _ring_broken(self, index: int, queue: _Queue) -> None:
        if not _drained(queue.err_fd):
            return
        if self._client is not None:
            error = DeviceError(f"{self._path}: the back-end marked queue {index} as broken")
            self._client.fail(error, in_step=True)

    # ---- the end

    async def close(self) -> None:
        await self._hang_up()
        for queue in self._queues.values():
            asyncio.get_running_loop().remove_reader(queue.err_fd)
            close_fds([queue.kick_fd, queue.call_fd, queue.err_fd])
        self._queues.clear()

    async def release(self) -> None:
        for lingering in self._lingering:
            lingering.close()
        self._lingering.clear()

    def info(self) -> dict[str, str]:
        return {"type": "user", "socket": self._path}
