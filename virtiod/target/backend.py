"""The back-end's side of vhost-user: a server on a Unix socket that serves one front-end after the other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from virtiod.core.errors import Busy, DeviceError, InvalidArgument
from virtiod.core.tasks import spawn
from virtiod.target.interface import TargetDevice
from virtiod.target.session import OFFERED, RING_FEATURES, Session
from virtiod.transports.vhost_user.connection import Channel

log = logging.getLogger(__name__)

BACKLOG = 8


class Backend:
    """Offers a device at `path`. Front-ends that come while one is served wait in the listen queue."""

    def __init__(
        self,
        path: str,
        device: TargetDevice,
        protocol_features: int = OFFERED,
        ring_features: int = RING_FEATURES,
    ) -> None:
        self._path = path
        self._device = device
        self._protocol_features = protocol_features
        self._ring_features = ring_features
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._stopping = False

    async def start(self) -> None:
        """Listens, with permission for the own user only. Replaces a socket that nobody listens on."""
        self._listener = _listen(self._path)
        self._task = spawn(self._serve(self._listener), f"target {self._path}")

    async def stop(self) -> None:
        """Stops the queues, closes the connection, and removes the socket. Idempotent."""
        self._stopping = True
        if self._task is not None:
            if self._session is not None:
                self._session.hang_up()  # a session is never cancelled: the device may be in the middle of a stop
            else:
                self._task.cancel()
            await asyncio.wait([self._task])
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            _remove(self._path)

    def config_changed(self) -> None:
        """Tells the front-end, if there is one, to read the configuration again."""
        if self._session is not None:
            self._session.config_changed()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("%s: accept: %s", self._path, error.strerror)
                await asyncio.sleep(0.1)  # out of descriptors or memory: it may pass
                continue
            self._session = Session(Channel(sock), self._device, self._protocol_features, self._ring_features)
            try:
                await self._serve_one(self._session, partial(_someone_waits, listener))
            except Exception:
                log.exception("%s: front-end dropped", self._path)
            finally:
                self._session = None

    async def _serve_one(self, session: Session, others_wait: Callable[[], bool]) -> None:
        try:
            await session.run(others_wait)
        except DeviceError as error:
            log.warning("%s: front-end dropped: %s", self._path, error)
        finally:
            await session.close()


def _someone_waits(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _listen(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale(path)
        sock.bind(path)
        Path(path).chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InvalidArgument(f"listen on {path}: {error.strerror or error}", error.errno) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(path)
        if code != errno.ECONNREFUSED:
            raise Busy(f"listen on {path}: another process does")
        _remove(path)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
