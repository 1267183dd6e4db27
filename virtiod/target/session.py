"""One front-end's connection to the target: its state, and what each of its messages does.

Everything that the front-end sends is validated before the device gets it. A request that is refused changes nothing;
it is answered with an error where the protocol allows one, else the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable

from virtiod.core.counted import counted
from virtiod.core.errors import DeadlineError, InvalidArgument, LostError, NotSupported, ProtocolError, VirtiodError
from virtiod.core.tasks import cancel, spawn
from virtiod.target.interface import QueueSetup, TargetDevice
from virtiod.target.memory import MAX_SLOTS, MemoryTable
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.connection import Channel, close_fds
from virtiod.transports.vhost_user.wire import Frame, ProtocolFeature, Request, VringAddr
from virtiod.virtio.features import Feature, feature_names
from virtiod.virtqueue.spec import parts

log = logging.getLogger(__name__)

OFFERED = (
    1 << ProtocolFeature.MQ
    | 1 << ProtocolFeature.REPLY_ACK
    | 1 << ProtocolFeature.BACKEND_REQ
    | 1 << ProtocolFeature.CONFIG
    | 1 << ProtocolFeature.CONFIGURE_MEM_SLOTS
)
RING_FEATURES = 1 << Feature.VERSION_1 | 1 << Feature.INDIRECT_DESC | 1 << Feature.EVENT_IDX

FIRST_MESSAGE_S = 3.0  # for a front-end to say something, if others wait

Handler = Callable[[bytes, list[int]], Awaitable[bytes | None]]

# How many descriptors a message carries, where it is not none; the vring ones take one unless NO_FD says otherwise.
_FDS = {
    Request.SET_MEM_TABLE: range(wire.MAX_TABLE_REGIONS + 1),
    Request.ADD_MEM_REG: range(1, 2),
    Request.REM_MEM_REG: range(2),
    Request.SET_VRING_KICK: range(2),
    Request.SET_VRING_CALL: range(2),
    Request.SET_VRING_ERR: range(2),
    Request.SET_BACKEND_REQ_FD: range(1, 2),
}
_NO_FDS = range(1)


class Ring:
    """What the front-end said of one ring. It runs when it was started, is enabled, and is fully described."""

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.addr: VringAddr | None = None
        self.fds: dict[Request, int] = {}  # by the message that brought them
        self.enabled = False
        self.running = False

    def set_fd(self, request: Request, fd: int) -> None:
        """Owns `fd`, -1 for none, in place of the one that the same message brought before."""
        old = self.fds.pop(request, -1)
        if old >= 0:
            close_fds([old])
        if fd >= 0:
            self.fds[request] = fd

    def close(self) -> None:
        close_fds(list(self.fds.values()))
        self.fds.clear()

    def locate(self, memory: MemoryTable) -> tuple[int, int, int]:
        """Local addresses of the descriptor table, the available and the used ring (virtio 1.2 §2.7)."""
        if self.addr is None or not self.size:
            raise InvalidArgument("the ring has no size or no addresses")
        found = []
        for user, part in zip((self.addr.desc, self.addr.avail, self.addr.used), parts(self.size), strict=True):
            local = memory.local(user, part.size)
            if user % part.align or local % part.align:
                raise InvalidArgument(f"ring address {user:#x} is not a multiple of {part.align}")
            found.append(local)
        desc, avail, used = found
        return desc, avail, used


class Session:
    """Serves one front-end until it leaves. `run` once, then `close`."""

    def __init__(
        self, channel: Channel, device: TargetDevice, protocol_features: int, ring_features: int = RING_FEATURES
    ) -> None:
        self._channel = channel
        self._device = device
        self._offered = device.features | ring_features | wire.F_PROTOCOL_FEATURES
        self._offered_protocol = protocol_features
        self._features = 0
        self._protocol = 0
        self._rings = [Ring() for _ in range(device.num_queues)]
        self._memory = MemoryTable()
        self._notify: socket.socket | None = None
        self._refusals = 0
        self._handlers: dict[int, Handler] = {
            Request.GET_FEATURES: self._get_features,
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: self._set_owner,
            Request.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            Request.SET_PROTOCOL_FEATURES: self._set_protocol_features,
            Request.GET_QUEUE_NUM: self._get_queue_num,
            Request.SET_BACKEND_REQ_FD: self._set_backend_req_fd,
            Request.GET_CONFIG: self._get_config,
            Request.SET_CONFIG: self._set_config,
            Request.SET_MEM_TABLE: self._set_mem_table,
            Request.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            Request.ADD_MEM_REG: self._add_mem_reg,
            Request.REM_MEM_REG: self._rem_mem_reg,
            Request.SET_VRING_NUM: self._set_vring_num,
            Request.SET_VRING_BASE: self._set_vring_base,
            Request.SET_VRING_ADDR: self._set_vring_addr,
            Request.SET_VRING_KICK: self._set_vring_kick,
            Request.SET_VRING_CALL: self._set_vring_call,
            Request.SET_VRING_ERR: self._set_vring_err,
            Request.SET_VRING_ENABLE: self._set_vring_enable,
            Request.GET_VRING_BASE: self._get_vring_base,
        }

    async def run(self, others_wait: Callable[[], bool]) -> None:
        """Handles messages one after the other. Returns when the front-end disconnected; DeviceError drops it.

        One that has said nothing yet is dropped as soon as others_wait(), though not at once: QEMU connects early.
        """
        spoke = False
        while True:
            try:
                frame, fds = await (self._channel.receive() if spoke else self._receive_first(others_wait))
            except LostError:
                return
            spoke = True
            try:
                reply = await self._handle(frame, fds)
            finally:
                close_fds(fds)
            if reply is not None:
                try:
                    await self._channel.send(wire.pack(frame.request, reply, wire.FLAG_REPLY))
                except LostError:
                    return

    async def _receive_first(self, others_wait: Callable[[], bool]) -> tuple[Frame, list[int]]:
        message = spawn(self._channel.receive(), "first message of a front-end", awaited=True)
        try:
            while not (await asyncio.wait({message}, timeout=FIRST_MESSAGE_S))[0]:
                if others_wait():
                    raise DeadlineError(f"it has said nothing for {FIRST_MESSAGE_S:g} s")
        finally:
            await cancel(message)
        return message.result()

    async def close(self) -> None:
        """Stops the rings that run and releases everything.

        If the device fails to stop, its memory and descriptors are kept: it may still use them.
        """
        self.hang_up()
        if self._notify is not None:
            self._notify.close()
        for index in range(len(self._rings)):
            await self._halt(index)
        await self._device.memory_changed(())
        for ring in self._rings:
            ring.close()
        self._memory.close()

    def hang_up(self) -> None:
        """Ends the connection: run() returns when it has handled the present message."""
        self._channel.close()

    def config_changed(self) -> None:
        if self._notify is None or not self._agreed(ProtocolFeature.CONFIG):
            return
        # A full buffer means that earlier notices are still unread: one more would say nothing new.
        with contextlib.suppress(OSError):
            self._notify.send(wire.pack(wire.BackendRequest.CONFIG_CHANGE_MSG), socket.MSG_NOSIGNAL)

    async def _handle(self, frame: Frame, fds: list[int]) -> bytes | None:
        """What to answer, None for nothing. Handlers take the descriptors that they keep out of `fds`."""
        name = wire.request_name(frame.request)
        acknowledge = frame.need_reply and self._agreed(ProtocolFeature.REPLY_ACK)
        try:
            handler = self._handlers.get(frame.request)
            if handler is None:
                raise NotSupported("this back-end does not know it")
            allowed = _FDS.get(Request(frame.request), _NO_FDS)
            if len(fds) not in allowed:
                raise ProtocolError(f"it came with {counted(len(fds), 'descriptor')}")
            reply = await handler(frame.payload, fds)
        except VirtiodError as error:
            # Logged once: a front-end that repeats a request must not fill the log.
            log.log(logging.DEBUG if self._refusals else logging.WARNING, "%s refused: %s", name, error)
            self._refusals += 1
            if frame.request == Request.GET_CONFIG:
                return b""
            if acknowledge:
                return wire.U64.pack(1)
            raise ProtocolError(f"{name}: {error}") from error
        return wire.U64.pack(0) if reply is None and acknowledge else reply

    def _agreed(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol >> feature & 1)

    # ---- features and configuration

    async def _get_features(self, payload: bytes, fds: list[int]) -> bytes:
        return wire.U64.pack(self._offered)

    async def _set_features(self, payload: bytes, fds: list[int]) -> None:
        features = wire.parse_u64(payload, Request.SET_FEATURES)
        excess = features & ~self._offered
        if excess:
            raise InvalidArgument(f"features {feature_names(excess)} are not offered")
        if features != self._features and any(ring.running for ring in self._rings):
            raise InvalidArgument("features can't change while a ring runs")
        self._features = features

    async def _set_owner(self, payload: bytes, fds: list[int]) -> None:
        """The session has one owner by its nature."""

    async def _get_protocol_features(self, payload: bytes, fds: list[int]) -> bytes:
        return wire.U64.pack(self._offered_protocol)

    async def _set_protocol_features(self, payload: bytes, fds: list[int]) -> None:
        features = wire.parse_u64(payload, Request.SET_PROTOCOL_FEATURES)
        if features & ~self._offered_protocol:
            raise InvalidArgument(f"protocol features {features:#x} of {self._offered_protocol:#x}")
        self._protocol = features

    async def _get_queue_num(self, payload: bytes, fds: list[int]) -> bytes:
        return wire.U64.pack(self._device.num_queues)

    async def _set_backend_req_fd(self, payload: bytes, fds: list[int]) -> None:
        try:
            notify = socket.socket(fileno=fds[0])
        except OSError as error:
            raise InvalidArgument(f"its descriptor is not a socket's: {error.strerror}") from error
        fds.clear()
        notify.setblocking(False)
        if self._notify is not None:
            self._notify.close()
        self._notify = notify

    async def _get_config(self, payload: bytes, fds: list[int]) -> bytes:
        offset, asked = wire.parse_config(payload, Request.GET_CONFIG)
        space = self._device.config().ljust(wire.MAX_CONFIG, b"\0")
        return wire.pack_config(offset, space[offset : offset + len(asked)])

    async def _set_config(self, payload: bytes, fds: list[int]) -> None:
        offset, data = wire.parse_config(payload, Request.SET_CONFIG)
        self._device.set_config(offset, data)

    # ---- memory

    async def _set_mem_table(self, payload: bytes, fds: list[int]) -> None:
        regions = wire.parse_mem_table(payload)
        if len(regions) != len(fds):
            raise ProtocolError(f"{counted(len(regions), 'region')} came with {counted(len(fds), 'descriptor')}")
        await self._replace_memory(MemoryTable.of(regions, fds))

    async def _get_max_mem_slots(self, payload: bytes, fds: list[int]) -> bytes:
        return wire.U64.pack(MAX_SLOTS)

    async def _add_mem_reg(self, payload: bytes, fds: list[int]) -> None:
        self._memory.add(wire.parse_region(payload, Request.ADD_MEM_REG), fds[0])
        await self._device.memory_changed(self._memory.regions)

    async def _rem_mem_reg(self, payload: bytes, fds: list[int]) -> None:
        await self._replace_memory(self._memory.without(wire.parse_region(payload, Request.REM_MEM_REG)))

    async def _replace_memory(self, table: MemoryTable) -> None:
        """Replaces the table while nothing runs. Running rings must be in the new one, and are resumed."""
        stopped = [index for index, ring in enumerate(self._rings) if ring.running]
        try:
            for index in stopped:
                self._rings[index].locate(table)
        except InvalidArgument:
            table.close(keep=self._memory)
            raise
        for index in stopped:
            await self._halt(index)
        old, self._memory = self._memory, table
        await self._device.memory_changed(table.regions)
        old.close(keep=table)
        for index in stopped:
            await self._run(index)

    # ---- rings

    def _ring(self, index: int) -> Ring:
        if index >= len(self._rings):
            raise InvalidArgument(f"ring {index} is not among {len(self._rings)}")
        return self._rings[index]

    def _stopped_ring(self, index: int) -> Ring:
        ring = self._ring(index)
        if ring.running:
            raise InvalidArgument(f"ring {index} is running")
        return ring

    async def _set_vring_num(self, payload: bytes, fds: list[int]) -> None:
        index, size = wire.parse_vring_state(payload, Request.SET_VRING_NUM)
        if not 0 < size <= self._device.max_queue_size or size & (size - 1):
            raise InvalidArgument(f"ring size {size} is not a power of two up to {self._device.max_queue_size}")
        self._stopped_ring(index).size = size

    async def _set_vring_base(self, payload: bytes, fds: list[int]) -> None:
        index, base = wire.parse_vring_state(payload, Request.SET_VRING_BASE)
        if base > 0xFFFF:
            raise InvalidArgument(f"base {base:#x} is not an index of a split ring")
        self._stopped_ring(index).base = base

    async def _set_vring_addr(self, payload: bytes, fds: list[int]) -> None:
        addr = wire.parse_vring_addr(payload)
        if addr.flags:
            raise NotSupported(f"flags {addr.flags:#x}: logging was not offered")
        ring = self._ring(addr.ring)
        if ring.running and ring.addr != addr:
            raise InvalidArgument(f"ring {addr.ring} is running")
        ring.addr = addr

    async def _set_vring_kick(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._take_vring_fd(payload, fds, Request.SET_VRING_KICK)
        if fd < 0:
            raise NotSupported(f"ring {index} without a kick descriptor")
        await self._replace_fd(index, Request.SET_VRING_KICK, fd)

    async def _set_vring_call(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._take_vring_fd(payload, fds, Request.SET_VRING_CALL)
        await self._replace_fd(index, Request.SET_VRING_CALL, fd)

    async def _set_vring_err(self, payload: bytes, fds: list[int]) -> None:
        index, fd = self._take_vring_fd(payload, fds, Request.SET_VRING_ERR)
        await self._replace_fd(index, Request.SET_VRING_ERR, fd)

    def _take_vring_fd(self, payload: bytes, fds: list[int], request: Request) -> tuple[int, int]:
        """(index, descriptor or -1), the descriptor now the ring's to close."""
        index, with_fd = wire.parse_vring_fd(payload, request)
        self._ring(index)
        if with_fd != bool(fds):
            raise ProtocolError(f"ring {index} came with {counted(len(fds), 'descriptor')}")
        if not fds:
            return index, -1
        # A full eventfd must never block the device.
        os.set_blocking(fds[0], False)
        return index, fds.pop()

    async def _replace_fd(self, index: int, request: Request, fd: int) -> None:
        ring = self._rings[index]
        await self._halt(index)
        ring.set_fd(request, fd)
        try:
            await self._run(index)
        except VirtiodError:
            ring.set_fd(request, -1)
            raise

    async def _set_vring_enable(self, payload: bytes, fds: list[int]) -> None:
        index, enable = wire.parse_vring_state(payload, Request.SET_VRING_ENABLE)
        if enable not in {0, 1}:
            raise InvalidArgument(f"{enable} is neither 0 nor 1")
        ring = self._ring(index)
        ring.enabled = bool(enable)
        if not enable:
            await self._halt(index)
        try:
            await self._run(index)
        except VirtiodError:
            ring.enabled = False
            raise

    async def _get_vring_base(self, payload: bytes, fds: list[int]) -> bytes:
        index, _ = wire.parse_vring_state(payload, Request.GET_VRING_BASE)
        ring = self._ring(index)
        await self._halt(index)
        ring.close()  # a stopped ring starts again with a new kick
        return wire.VRING_STATE.pack(index, ring.base)

    async def _run(self, index: int) -> None:
        """Starts the ring if the front-end has described it completely."""
        ring = self._rings[index]
        enabled = ring.enabled or not self._features & wire.F_PROTOCOL_FEATURES
        kick_fd = ring.fds.get(Request.SET_VRING_KICK, -1)
        if ring.running or kick_fd < 0 or not enabled:
            return
        desc, avail, used = ring.locate(self._memory)
        setup = QueueSetup(
            size=ring.size,
            desc=desc,
            avail=avail,
            used=used,
            base=ring.base,
            kick_fd=kick_fd,
            call_fd=ring.fds.get(Request.SET_VRING_CALL, -1),
            err_fd=ring.fds.get(Request.SET_VRING_ERR, -1),
            features=self._features & ~wire.F_PROTOCOL_FEATURES,
        )
        await self._device.queue_start(index, setup, self._memory.regions)
        ring.running = True

    async def _halt(self, index: int) -> None:
        ring = self._rings[index]
        if ring.running:
            ring.base = await self._device.queue_stop(index)
            ring.running = False
