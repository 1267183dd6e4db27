"""What a back-end that did not stop its rings in time may still say of them, on a connection that nobody uses any more.

This side has asked it to stop them, and sends nothing further: so a back-end that had hung, and resumes, reads the
requests, then the end of the stream, and is free for a new connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from virtiod.core.errors import LostError, ProtocolError
from virtiod.core.tasks import spawn
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.connection import Channel, close_fds
from virtiod.transports.vhost_user.wire import Request

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request that was sent whole, and whose reply has not come. ring: that it asks to stop."""

    request: Request
    ring: int | None = None


class Lingering:
    """Owns a channel until its end. asked: in their order. stopped: called once, if every ring was stopped.

    That takes the end of the stream too: some back-ends answer at once, and close when the I/O that they have begun is
    done.
    """

    def __init__(self, channel: Channel, path: str, asked: Sequence[Asked], stopped: Callable[[], None]) -> None:
        self.closed = False
        self._channel = channel
        self._path = path
        self._hearing = spawn(self._hear(asked, stopped), f"vhost-user {path}, which has not stopped yet")

    async def _hear(self, asked: Sequence[Asked], stopped: Callable[[], None]) -> None:
        in_order = False
        try:
            for each in asked:
                await self._hear_one(each)
            in_order = True
            frame, fds = await self._channel.receive()
            close_fds(fds)
            in_order = False
            log.debug("%s: after its last reply it sent %s", self._path, wire.request_name(frame.request))
        except (LostError, ProtocolError) as error:
            in_order = in_order and isinstance(error, LostError)
            log.debug("%s: a connection that was left: %s", self._path, error)
        finally:
            wanted = not self.closed
            self.close()
        if in_order and wanted:
            stopped()

    async def _hear_one(self, asked: Asked) -> None:
        frame, fds = await self._channel.receive()
        close_fds(fds)
        payload = wire.check_reply(frame, asked.request)
        if asked.ring is not None:
            wire.parse_vring_base(payload, asked.ring)

    async def wait(self, seconds: float) -> None:
        """Wait until there is nothing more to hear, at most so long."""
        await asyncio.wait([self._hearing], timeout=seconds)

    def close(self) -> None:
        """Hear no more. Idempotent."""
        self.closed = True
        self._channel.close()
