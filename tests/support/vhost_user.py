"""Peers for tests: a back-end that follows a script, a device that keeps book, and waiting for a condition."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence

from virtiod.core.errors import InvalidArgument, LostError
from virtiod.target.interface import MappedRegion, QueueSetup, TargetDevice
from virtiod.transports.interface import QueueLayout
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.connection import Channel, close_fds
from virtiod.transports.vhost_user.wire import Frame, ProtocolFeature, Request
from virtiod.virtio.features import BlkFeature, Feature

ALL_PROTOCOL = (
    1 << ProtocolFeature.MQ
    | 1 << ProtocolFeature.REPLY_ACK
    | 1 << ProtocolFeature.BACKEND_REQ
    | 1 << ProtocolFeature.CONFIG
    | 1 << ProtocolFeature.RESET_DEVICE
    | 1 << ProtocolFeature.CONFIGURE_MEM_SLOTS
    | 1 << ProtocolFeature.STATUS
)
FEATURES = 1 << Feature.VERSION_1 | 1 << BlkFeature.MQ


def layout_at(address: int, size: int = 128, base: int = 0) -> QueueLayout:
    return QueueLayout(size, address, address + 8192, address + 16384, base)


def reply(request: int, payload: bytes) -> bytes:
    return wire.pack(request, payload, wire.FLAG_REPLY)


def u64(request: int, value: int) -> bytes:
    return reply(request, wire.U64.pack(value))


class Hangup(Exception):
    """Raised by a script: close the connection without an answer."""


Script = Callable[[Frame], bytes | None]


class ScriptedBackend:
    """A well-behaved back-end but for `script`: by request, what to send instead (None: nothing)."""

    def __init__(
        self,
        script: dict[Request, Script] | None = None,
        features: int = FEATURES | wire.F_PROTOCOL_FEATURES,
        protocol: int = ALL_PROTOCOL,
        config: bytes = bytes(60),
    ) -> None:
        self.script = script or {}
        self.features = features
        self.protocol = protocol
        self.config = config
        self.requests: list[Request] = []
        self.fd_counts: list[int] = []
        self.connections = 0
        self.sock: socket.socket | None = None
        self.notify: socket.socket | None = None
        self.reply_fds: list[int] = []
        self._acked = 0
        self._status = 0
        self._goes = asyncio.Event()
        self._goes.set()

    def pause(self) -> None:
        """Be silent, as one that hangs."""
        self._goes.clear()

    def resume(self) -> None:
        self._goes.set()

    def speak(self, data: bytes) -> None:
        """Send what nobody asked for."""
        assert self.sock is not None
        self.sock.send(data)

    def hang_up(self) -> None:
        """End the connection as the death of a back-end does."""
        assert self.sock is not None
        self.sock.shutdown(socket.SHUT_RDWR)

    @property
    def channel(self) -> socket.socket:
        """The back-end's own channel, which the front-end gave it."""
        assert self.notify is not None
        return self.notify

    def answer(self, frame: Frame) -> bytes | None:
        request = Request(frame.request)
        if request in self.script:
            return self.script[request](frame)
        match request:
            case Request.GET_FEATURES:
                return u64(request, self.features)
            case Request.GET_PROTOCOL_FEATURES:
                return u64(request, self.protocol)
            case Request.SET_PROTOCOL_FEATURES:
                self._acked = wire.parse_u64(frame.payload, request)
            case Request.GET_QUEUE_NUM:
                return u64(request, 4)
            case Request.GET_MAX_MEM_SLOTS:
                return u64(request, 32)
            case Request.GET_CONFIG:
                _, asked = wire.parse_config(frame.payload, request)
                known = len(asked) == len(self.config)
                return reply(request, wire.pack_config(0, self.config) if known else b"")
            case Request.GET_VRING_BASE:
                return reply(request, frame.payload)
            case Request.SET_STATUS:
                self._status = wire.parse_u64(frame.payload, request)
            case Request.GET_STATUS:
                return u64(request, self._status)
        return u64(request, 0) if frame.need_reply else None

    async def serve(self, sock: socket.socket) -> None:
        self.connections += 1
        self.sock = sock
        channel = Channel(sock)
        try:
            while True:
                frame, fds = await channel.receive()
                await self._goes.wait()
                self.requests.append(Request(frame.request))
                self.fd_counts.append(len(fds))
                if frame.request == Request.SET_BACKEND_REQ_FD:
                    self.notify = socket.socket(fileno=fds.pop())
                close_fds(fds)
                answer = self.answer(frame)
                if answer is not None:
                    await channel.send(answer, self.reply_fds)
        except (LostError, Hangup):
            await self._goes.wait()
        finally:
            channel.close()
            if self.notify is not None:
                self.notify.close()
                self.notify = None

    @contextlib.asynccontextmanager
    async def at(self, path: str) -> AsyncIterator[ScriptedBackend]:
        """Listen at a path for as long as the context lasts."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(4)
            listener.setblocking(False)
            task = asyncio.create_task(self._accept(listener))
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            await self.serve(sock)


class BookDevice(TargetDevice):
    """A device that serves nothing, and keeps book of what the back-end asked of it."""

    def __init__(self, num_queues: int = 4, config: bytes = bytes(range(60))) -> None:
        self.features = 1 << BlkFeature.MQ | 1 << BlkFeature.CONFIG_WCE
        self.num_queues = num_queues
        self.max_queue_size = 256
        self.space = bytearray(config)
        self.running: dict[int, QueueSetup] = {}
        self.starts = 0
        self.regions: tuple[MappedRegion, ...] = ()
        self.base_on_stop: dict[int, int] = {}

    def config(self) -> bytes:
        return bytes(self.space)

    def set_config(self, offset: int, data: bytes) -> None:
        if (offset, len(data)) != (32, 1):
            raise InvalidArgument(f"configuration at {offset}+{len(data)} can't be written")
        self.space[32] = data[0]

    async def queue_start(self, index: int, setup: QueueSetup, regions: Sequence[MappedRegion]) -> None:
        assert index not in self.running
        assert tuple(regions) == self.regions
        self.running[index] = setup
        self.starts += 1

    async def queue_stop(self, index: int) -> int:
        setup = self.running.pop(index)
        return self.base_on_stop.get(index, setup.base)

    async def memory_changed(self, regions: Sequence[MappedRegion]) -> None:
        self.regions = tuple(regions)
