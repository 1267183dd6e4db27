"""Whatever a vhost-user back-end sends, an attach and a detach end with a result or a VirtiodError.

The input is the stream of the back-end's replies. Each message is delivered when the front-end has asked for something;
at the end of the input the back-end hangs up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from virtiod.core.errors import LostError, VirtiodError
from virtiod.core.memory import MIB, DmaMemory
from virtiod.transports.epoch import Epoch
from virtiod.transports.interface import QueueLayout
from virtiod.transports.vhost_user.client import Client
from virtiod.transports.vhost_user.connection import Channel
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import Frame, FrameReader


class _Replies(Channel):
    """A channel whose peer says what the input says; it has no socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._asked = asyncio.Event()
        self._all_asked = False

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self._asked.set()

    def send_last(self, data: bytes) -> bool:
        self._all_asked = True
        return True

    async def receive(self) -> tuple[Frame, list[int]]:
        if not self._all_asked:
            await self._asked.wait()
            self._asked.clear()
        reader = FrameReader()
        while True:
            chunk, self._data = self._data[: reader.need], self._data[reader.need :]
            if not chunk:
                raise LostError("the connection ended")
            frame = reader.feed(chunk)
            if frame is not None:
                return frame, []

    def close(self) -> None:
        self._asked.set()


class _Transport(VhostUserTransport):
    data = b""

    async def _new_client(self, timeout: float) -> Client:
        self.epoch = Epoch("fuzz")
        data, self.data = self.data, b""  # a second connection says nothing more
        return Client(_Replies(data), "fuzz", 5.0)


async def _attach_and_detach(data: bytes) -> None:
    memory = DmaMemory(MIB, 4096)
    memory.allocate(2 * MIB)  # in a second region
    transport = _Transport("fuzz", memory)
    transport.data = data
    try:
        await transport.connect(5.0)
        await transport.acknowledge_features(transport.device_features())
        await transport.read_config(0, 60)
        await transport.share_memory()
        await transport.setup_queue(0, QueueLayout(128, 1 << 32, 2 << 32, 3 << 32))
        await transport.start_queue(0)
        await transport.driver_ok()
        await transport.stop_queue(0)
    except VirtiodError:
        pass
    finally:
        await transport.close()
        memory.close()


def fuzz(data: bytes) -> None:
    asyncio.run(_attach_and_detach(data))
