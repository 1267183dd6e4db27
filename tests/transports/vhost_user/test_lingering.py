"""A connection that was left while rings ran: what the back-end says of them later, and when nobody listens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.rig import in_loop
from tests.support.vhost_user import Hangup, Script, ScriptedBackend, layout_at, reply, u64
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import DeadlineError, DeviceError
from virtiod.core.memory import DmaMemory
from virtiod.transports.epoch import Epoch, EpochState
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.connection import Channel
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import Frame, Request

RINGS = 3
SHORT_S = 0.05


def base(index: int) -> bytes:
    return reply(Request.GET_VRING_BASE, wire.VRING_STATE.pack(index, 0))


def ring_of(frame: Frame) -> int:
    return wire.parse_vring_state(frame.payload, frame.request)[0]


def free(path: str) -> None:
    Path(path).unlink()


class Stand:
    """A transport to a back-end whose rings run."""

    def __init__(self, path: str, memory: DmaMemory, message_timeout: float = PATIENCE_S) -> None:
        self.path = path
        self.memory = memory
        self.transport = VhostUserTransport(path, memory, message_timeout=message_timeout)
        self.epochs: list[Epoch] = []
        self.asked: list[int] = []

    @property
    def epoch(self) -> Epoch:
        return self.epochs[-1]

    @property
    def open(self) -> int:
        """How many connections linger."""
        return sum(not lingering.closed for lingering in self.transport._lingering)

    def stops(self, frame: Frame) -> bytes:
        self.asked.append(ring_of(frame))
        return reply(frame.request, frame.payload)

    async def run(self) -> None:
        await self.transport.connect(PATIENCE_S)
        assert self.transport.epoch is not None
        self.epochs.append(self.transport.epoch)
        await self.transport.share_memory()
        for index in range(RINGS):
            await self.transport.setup_queue(index, layout_at(self.memory.regions[0].address + index * 32768))
            await self.transport.start_queue(index)

    async def leave(self, backend: ScriptedBackend) -> None:
        """As a controller leaves a back-end that hangs."""
        backend.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await self.transport.stop_queue(0)
        await self.transport.close()
        assert self.epoch.state is EpochState.POSSIBLY_ALIVE


@asynccontextmanager
async def running(backend: ScriptedBackend, path: str, memory: DmaMemory) -> AsyncIterator[Stand]:
    async with backend.at(path):
        stand = Stand(path, memory)
        try:
            await stand.run()
            yield stand
        finally:
            await stand.transport.close()
            await stand.transport.release()
            for epoch in stand.epochs:
                epoch.forget()


@in_loop
async def test_a_back_end_that_stops_its_rings_late_is_over(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend()
    async with running(backend, path, memory) as s:
        backend.script[Request.GET_VRING_BASE] = s.stops
        await s.leave(backend)
        assert s.open == 1
        backend.resume()
        await s.epoch.wait_over()
        assert (s.epoch.state, s.epoch.reason) == (EpochState.QUIESCED, "it stopped its rings late")
        assert s.asked == [0, 1, 2]
        assert s.open == 0


@in_loop
async def test_the_reply_to_a_request_at_its_deadline_comes_first(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend()
    async with backend.at(path):
        s = Stand(path, memory, message_timeout=2.0)
        await s.run()
        backend.pause()
        with pytest.raises(DeadlineError, match="GET_CONFIG"):
            await s.transport.read_config(0, 60)
        await s.transport.close()
        assert s.epoch.state is EpochState.POSSIBLY_ALIVE
        backend.resume()
        await s.epoch.wait_over()
        assert s.epoch.reason == "it stopped its rings late"


@in_loop
async def test_the_next_session_does_not_disturb_the_old_one(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend()
    async with running(backend, path, memory) as s:
        await s.leave(backend)
        connecting = asyncio.create_task(s.run())
        backend.resume()
        await connecting
        old, new = s.epochs
        await old.wait_over()
        assert (old.state, new.state) == (EpochState.QUIESCED, EpochState.LIVE)
        assert backend.connections == 2
        assert await s.transport.stop_queue(0) == 0


@in_loop
async def test_replies_alone_are_not_enough_while_the_back_end_holds_the_connection(
    path: str, memory: DmaMemory
) -> None:
    """qemu-storage-daemon replies at once, and closes when the I/O that it has begun is done."""
    backend = ScriptedBackend()
    async with running(backend, path, memory) as s:

        def last(frame: Frame) -> bytes:
            if ring_of(frame) == RINGS - 1:
                asyncio.get_running_loop().call_later(SHORT_S, heard.set)
                backend.pause()
            return reply(frame.request, frame.payload)

        heard = asyncio.Event()
        backend.script[Request.GET_VRING_BASE] = last
        await s.leave(backend)
        backend.resume()
        await heard.wait()
        assert not s.epoch.over
        backend.resume()
        await s.epoch.wait_over()
        assert s.epoch.reason == "it stopped its rings late"


@in_loop
async def test_rings_that_were_stopped_are_not_enough_either(
    path: str, memory: DmaMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virtiod.transports.vhost_user.transport.DRAIN_S", SHORT_S)
    backend = ScriptedBackend()
    async with running(backend, path, memory) as s:
        for index in range(RINGS):
            await s.transport.stop_queue(index)
        backend.pause()
        await s.transport.close()
        assert s.epoch.state is EpochState.POSSIBLY_ALIVE
        assert "stopped its rings, but did not end the connection" in s.epoch.reason
        backend.resume()
        await s.epoch.wait_over()
        assert s.epoch.reason == "all its rings were stopped"


def hang_up(_: Frame) -> bytes:
    raise Hangup


WRONG: dict[str, Script] = {
    "hangs up": hang_up,
    "answers nothing": lambda _: None,
    "answers for another ring": lambda _: base(1),
    "answers another request": lambda _: u64(Request.GET_FEATURES, 0),
    "answers too often": lambda frame: base(ring_of(frame)) * (2 if ring_of(frame) == RINGS - 1 else 1),
    "answers the last ring only": lambda frame: base(ring_of(frame)) if ring_of(frame) == RINGS - 1 else None,
    "sends nonsense": lambda _: b"\xff" * 64,
}


@pytest.mark.parametrize("script", WRONG.values(), ids=WRONG.keys())
@in_loop
async def test_what_is_no_stop_of_every_ring_proves_nothing(script: Script, path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend({Request.GET_VRING_BASE: script})
    async with running(backend, path, memory) as s:
        await s.leave(backend)
        backend.resume()
        await until(lambda: not s.open)
        assert s.epoch.state is EpochState.POSSIBLY_ALIVE


@in_loop
async def test_a_back_end_that_marked_a_ring_as_broken_is_asked_to_stop(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend()
    async with running(backend, path, memory) as s:
        lost: list[DeviceError] = []
        s.transport.on_lost = lost.append
        backend.script[Request.GET_VRING_BASE] = s.stops
        os.eventfd_write(s.transport._queues[1].err_fd, 1)
        await until(lambda: lost)
        await s.transport.close()
        await s.epoch.wait_over()
        assert s.asked == [0, 1, 2]


@pytest.mark.parametrize("how", ["release", "forget", "die", "another"])
@in_loop
async def test_nobody_listens_for_ever(how: str, path: str, memory: DmaMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtiod.transports.vhost_user.transport.MAX_LINGERING", 1)
    backend, other = ScriptedBackend(), ScriptedBackend()
    async with running(backend, path, memory) as s:
        await s.leave(backend)
        first, (lingering,) = s.epoch, s.transport._lingering
        assert not lingering.closed
        match how:
            case "release":
                await s.transport.release()
            case "forget":
                first.forget()
            case "die":
                first.die("the test says so")
            case "another":
                free(path)
                async with other.at(path):
                    await s.run()
                    await s.leave(other)
                    assert s.open == 1
        assert lingering.closed
        backend.resume()
        await until(lambda: backend.sock is not None and backend.sock.fileno() < 0)
        assert first.state is (EpochState.DEAD if how == "die" else EpochState.POSSIBLY_ALIVE)


@in_loop
async def test_a_socket_that_takes_no_request_at_once_is_closed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        channel = Channel(ours)
        try:
            with pytest.raises(BlockingIOError):
                while True:
                    ours.send(bytes(4096))
            assert not channel.send_last(bytes(20))
        finally:
            channel.close()
        assert not channel.send_last(b"")
