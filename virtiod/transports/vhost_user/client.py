"""The front-end's side of a vhost-user connection: one method for each request.

Requests take turns; each has a deadline. What the peer sends is checked against the request that is open:
anything else ends the connection, as nothing after it could be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

from virtiod.core.errors import ConnectError, DeadlineError, DeviceError, LostError, ProtocolError
from virtiod.core.tasks import cancel, spawn
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.connection import Channel, close_fds
from virtiod.transports.vhost_user.lingering import Asked, Lingering
from virtiod.transports.vhost_user.wire import MemoryRegion, ProtocolFeature, Request

log = logging.getLogger(__name__)

CONNECT_RETRY = 0.02  # seconds between attempts while the listen queue is full
BACKEND_PAUSE = 0.001  # seconds after each of the back-end's own requests, so that a flood costs little


async def open_socket(path: str, timeout: float) -> socket.socket:
    """Connects to a listening Unix socket; returns a non-blocking socket. ConnectError has the errno of connect(2)."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                # The listen queue is full. The kernel offers nothing to wait on, and poll() says "writable".
                if loop.time() + CONNECT_RETRY > deadline:
                    message = f"connect to {path}: the listen queue stayed full for {timeout:.3g} s"
                    raise DeadlineError(message) from None
                await asyncio.sleep(CONNECT_RETRY)
    except OSError as error:
        sock.close()
        raise ConnectError(f"connect to {path}: {error.strerror or error}", error.errno) from error
    except ValueError as error:
        sock.close()
        raise ConnectError(f"connect to {path!r}: {error}") from error
    except BaseException:
        sock.close()
        raise


class Client:
    """A connection to a back-end. `path` names it in messages, `timeout` is each request's, in seconds."""

    def __init__(self, channel: Channel, path: str, timeout: float) -> None:
        self.path = path
        self.on_lost: Callable[[DeviceError], None] | None = None
        self.on_config_change: Callable[[], None] | None = None
        self.protocol_features = 0
        self.deadline: float | None = None  # loop time that no request may pass, while connecting
        self.lost: DeviceError | None = None
        self.hung_up = False  # the connection was lost because the peer closed it
        self._timeout = timeout
        self._channel = channel
        self._turn = asyncio.Lock()
        self._open: tuple[Asked, asyncio.Future[bytes]] | None = None  # until its reply has come
        self._answered: Request | None = None  # the last one
        self._unanswered: Request | None = None  # it has no reply, and nothing after it was answered yet
        self._sending = False
        self._backend: Channel | None = None
        self._tasks = [spawn(self._receive(), f"vhost-user {path}")]

    def agreed(self, feature: ProtocolFeature) -> bool:
        return bool(self.protocol_features >> feature & 1)

    def fail(self, error: DeviceError, *, in_step: bool = False) -> None:
        """Ends the connection because of `error`. Only the first one counts.

        in_step: what the back-end sends can still be told apart, so that part() may hear it out until close().
        """
        if not in_step:
            self._channel.close()
        if self.lost is not None:
            return
        self.lost = error
        if self._backend is not None:
            self._backend.close()
        if self._open is not None and not self._open[1].done():
            self._open[1].set_exception(error)
        asyncio.get_running_loop().call_soon(self._tell_lost, error)

    def _peer_closed(self, error: LostError) -> None:
        self.hung_up = self.hung_up or self.lost is None
        self.fail(error)

    def _tell_lost(self, error: DeviceError) -> None:
        if self.on_lost is not None:
            self.on_lost(error)

    async def close(self) -> None:
        """Closes the connection. Idempotent; on_lost is not called for it."""
        self.on_lost = self.on_config_change = None
        self.fail(LostError(f"{self.path}: the connection was closed"))
        await cancel(*self._tasks)

    async def part(self, rings: Sequence[int], stopped: Callable[[], None]) -> Lingering | None:
        """End the connection, but hear whether the back-end stops those rings late: stopped() is called if it does.

        It is asked to stop those that it was not asked yet. None: it can't be asked; the connection is closed.
        """
        self.on_lost = self.on_config_change = None
        self.fail(LostError(f"{self.path}: the connection was closed"), in_step=True)
        await cancel(*self._tasks)
        asked = [] if self._open is None else [self._open[0]]
        more = [Asked(Request.GET_VRING_BASE, ring) for ring in rings if ring not in {each.ring for each in asked}]
        requests = [wire.pack(each.request, wire.VRING_STATE.pack(each.ring, 0)) for each in more]
        if self._sending or not self._channel.send_last(b"".join(requests)):
            await self.close()
            return None
        return Lingering(self._channel, self.path, asked + more, stopped)

    # ---- requests, in the order of their first use

    async def set_owner(self) -> None:
        await self._set(Request.SET_OWNER)

    async def get_features(self) -> int:
        return await self._get_u64(Request.GET_FEATURES)

    async def set_features(self, features: int) -> None:
        await self._set(Request.SET_FEATURES, wire.U64.pack(features))

    async def get_protocol_features(self) -> int:
        return await self._get_u64(Request.GET_PROTOCOL_FEATURES)

    async def set_protocol_features(self, features: int) -> None:
        """Agrees on features; from then on `protocol_features` has them, and REPLY_ACK is used if it is one."""
        await self._set(Request.SET_PROTOCOL_FEATURES, wire.U64.pack(features))
        self.protocol_features = features

    async def get_queue_num(self) -> int:
        return await self._get_u64(Request.GET_QUEUE_NUM)

    async def get_max_mem_slots(self) -> int:
        return await self._get_u64(Request.GET_MAX_MEM_SLOTS)

    async def set_backend_req_fd(self) -> None:
        """Gives the back-end a channel of its own, and serves it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._backend = Channel(ours)
        try:
            with theirs:
                await self._set(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        except BaseException:
            self._backend.close()  # the connection may have ended before there was a channel to close with it
            raise
        self._tasks.append(spawn(self._serve(self._backend), f"back-end of {self.path}"))

    async def set_mem_table(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        await self._set(Request.SET_MEM_TABLE, wire.pack_mem_table(regions), fds)

    async def add_mem_reg(self, region: MemoryRegion, fd: int) -> None:
        await self._set(Request.ADD_MEM_REG, wire.pack_region(region), [fd])

    async def set_vring_num(self, index: int, size: int) -> None:
        await self._set(Request.SET_VRING_NUM, wire.VRING_STATE.pack(index, size))

    async def set_vring_base(self, index: int, base: int) -> None:
        await self._set(Request.SET_VRING_BASE, wire.VRING_STATE.pack(index, base))

    async def set_vring_addr(self, index: int, desc: int, avail: int, used: int) -> None:
        """Tells where a ring is, by user addresses, which for this front-end are the guest-physical ones too."""
        await self._set(Request.SET_VRING_ADDR, wire.VRING_ADDR.pack(index, 0, desc, used, avail, 0))

    async def set_vring_kick(self, index: int, fd: int) -> None:
        await self._set(Request.SET_VRING_KICK, wire.pack_vring_fd(index, True), [fd])

    async def set_vring_call(self, index: int, fd: int) -> None:
        await self._set(Request.SET_VRING_CALL, wire.pack_vring_fd(index, True), [fd])

    async def set_vring_err(self, index: int, fd: int) -> None:
        await self._set(Request.SET_VRING_ERR, wire.pack_vring_fd(index, True), [fd])

    async def set_vring_enable(self, index: int, enable: bool) -> None:
        await self._set(Request.SET_VRING_ENABLE, wire.VRING_STATE.pack(index, int(enable)))

    async def get_vring_base(self, index: int) -> int:
        """Stops a ring; returns its last available index (with the wrap counters for a packed ring)."""
        payload = await self._request(Request.GET_VRING_BASE, wire.VRING_STATE.pack(index, 0), reply=True, ring=index)
        with self._checking():
            return wire.parse_vring_base(payload, index)

    async def get_config(self, offset: int, size: int) -> bytes | None:
        """Reads bytes of the configuration; None when the back-end refuses this range."""
        request = Request.GET_CONFIG
        payload = await self._request(request, wire.pack_config(offset, bytes(size)), reply=True)
        if not payload:
            return None
        with self._checking():
            got, data = wire.parse_config(payload, request)
            if data and (got, len(data)) != (offset, size):
                raise ProtocolError(f"GET_CONFIG: got {got}+{len(data)} where {offset}+{size} was asked for")
        return data or None

    async def get_status(self) -> int:
        return await self._get_u64(Request.GET_STATUS)

    async def set_status(self, status: int) -> None:
        await self._set(Request.SET_STATUS, wire.U64.pack(status))

    # ---- how a request goes

    async def _get_u64(self, request: Request) -> int:
        payload = await self._request(request, reply=True)
        with self._checking():
            return wire.parse_u64(payload, request)

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        """Ends the connection if the parsing of a reply, inside this context, raises an error."""
        try:
            yield
        except ProtocolError as error:
            wrapped = ProtocolError(f"{self.path}: {error}")
            self.fail(wrapped)
            raise wrapped from error

    async def _set(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a request that has no reply of its own; returns when it was acknowledged, or is known to be handled."""
        if self.agreed(ProtocolFeature.REPLY_ACK):
            answer = await self._request(request, payload, fds, reply=True, flags=wire.FLAG_NEED_REPLY)
            with self._checking():
                result = wire.parse_u64(answer, request)
            if result:
                raise DeviceError(f"{self.path}: {request.name} was refused (result {result})")
        else:
            await self._request(request, payload, fds, reply=False)
            # Requests are handled in order: an answer to this one says that the first was handled too.
            await self.get_features()

    async def _request(
        self,
        request: Request,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        reply: bool,
        flags: int = 0,
        ring: int | None = None,
    ) -> bytes:
        loop = asyncio.get_running_loop()
        timeout = self._timeout
        if self.deadline is not None:
            timeout = max(0.0, min(timeout, self.deadline - loop.time()))
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._exchange(Asked(request, ring), wire.pack(request, payload, flags), fds, reply)
        except TimeoutError:
            error = DeadlineError(f"{self.path}: {request.name}: no answer within {timeout:.3g} s")
            self.fail(error, in_step=True)
            raise error from None
        except asyncio.CancelledError:
            self.fail(LostError(f"{self.path}: {request.name} was given up"), in_step=True)
            raise

    async def _exchange(self, asked: Asked, message: bytes, fds: Sequence[int], reply: bool) -> bytes:
        if self.lost is not None:
            raise LostError(f"{self.lost}; {asked.request.name} was not sent") from self.lost
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if reply:
            self._open = (asked, answer)
        self._sending = True
        try:
            try:
                await self._channel.send(message, fds)
            except LostError as error:
                self._peer_closed(LostError(self._ended(error, asked.request)))
                raise self.lost or error from error
            self._sending = False
            if not reply:
                self._unanswered = asked.request
            return await answer if reply else b""
        finally:
            if answer.done() and not answer.cancelled():
                answer.exception()  # it was reported in another way: asyncio must not report it as never retrieved

    def _ended(self, error: LostError, unsent: Request | None = None) -> str:
        """Says that the connection ended, and over what: over what was sent, not over what was to be sent next."""
        over = [] if self._unanswered is None else [self._unanswered.name]
        if unsent is None and self._open is not None:
            over.append(self._open[0].request.name)
        after = "" if self._answered is None else f", after {self._answered.name} was answered"
        not_sent = "" if unsent is None else f"; {unsent.name} was not sent"
        return ": ".join([self.path, *([" or ".join(over)] if over else []), f"{error}{after}{not_sent}"])

    # ---- what the back-end sends

    async def _receive(self) -> None:
        """Receives replies, and notices at once when the connection ends."""
        try:
            while True:
                frame, fds = await self._channel.receive()
                close_fds(fds)  # no reply to this front-end carries any
                if self._open is None:
                    raise ProtocolError(f"{wire.request_name(frame.request)}: there is no open request")
                asked, answer = self._open
                payload = wire.check_reply(frame, asked.request)
                self._open = self._unanswered = None
                self._answered = asked.request
                if not answer.done():
                    answer.set_result(payload)
        except LostError as error:
            self._peer_closed(LostError(self._ended(error)))
        except ProtocolError as error:
            self.fail(ProtocolError(f"{self.path}: {error}"))
        except Exception as error:
            self._fail_unforeseen("replies", error)

    def _fail_unforeseen(self, what: str, error: Exception) -> None:
        """A bug of virtiod's: without the task that ends by it nobody would hear of the back-end any more."""
        log.error("%s: %s: %s: %s", self.path, what, type(error).__name__, error, exc_info=error)
        self.fail(ProtocolError(f"{self.path}: {what}: {type(error).__name__}: {error}"))

    async def _serve(self, channel: Channel) -> None:
        """Answers the back-end's own requests."""
        try:
            while True:
                frame, fds = await channel.receive()
                close_fds(fds)
                if frame.is_reply:
                    raise ProtocolError(f"back-end message {frame.request}: a reply to nothing")
                known = frame.request == wire.BackendRequest.CONFIG_CHANGE_MSG and not frame.payload
                if frame.need_reply:
                    result = wire.U64.pack(0 if known else 1)
                    async with asyncio.timeout(self._timeout):
                        await channel.send(wire.pack(frame.request, result, wire.FLAG_REPLY))
                if known and self.on_config_change is not None:
                    self.on_config_change()
                await asyncio.sleep(BACKEND_PAUSE)
        except TimeoutError:
            self.fail(DeadlineError(f"{self.path}: the back-end's channel took no answer in {self._timeout:g} s"))
        except LostError:
            pass  # the back-end closed this channel; the main one tells when the back-end is gone itself
        except ProtocolError as error:
            self.fail(ProtocolError(f"{self.path}: back-end channel: {error}"))
        except Exception as error:
            self._fail_unforeseen("back-end channel", error)
