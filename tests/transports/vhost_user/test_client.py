"""The front-end against back-ends that misbehave: each costs one clear error, within its deadline."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.vhost_user import FEATURES, Hangup, Script, ScriptedBackend, layout_at, reply, u64
from tests.support.waiting import PATIENCE_S, soon, until
from virtiod.core.errors import ConnectError, DeadlineError, DeviceError, LostError, ProtocolError
from virtiod.core.memory import DmaMemory
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.client import Client
from virtiod.transports.vhost_user.connection import Channel
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import Frame, ProtocolFeature, Request


def hang_up(frame: Frame) -> None:
    raise Hangup


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def silent(frame: Frame) -> None:
    return None


async def connect_error(
    path: str,
    memory: DmaMemory,
    backend: ScriptedBackend,
    timeout: float = PATIENCE_S,
    message_timeout: float = PATIENCE_S,
) -> DeviceError:
    """What connect() raises, which must be all that is left of it."""
    async with backend.at(path):
        transport = VhostUserTransport(path, memory, message_timeout=message_timeout)
        lost: list[DeviceError] = []
        transport.on_lost = lost.append
        tasks = asyncio.all_tasks()
        with pytest.raises(DeviceError) as caught:
            await transport.connect(timeout)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks
        assert lost == []
        await transport.close()
    return caught.value


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda f: os.urandom(64), ProtocolError, "header flags|is over"),
        (lambda f: b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError, "header flags"),
        (lambda f: u64(Request.GET_QUEUE_NUM, 1), ProtocolError, "GET_FEATURES: the reply is for GET_QUEUE_NUM"),
        (lambda f: wire.pack(f.request, bytes(8)), ProtocolError, "GET_FEATURES: the answer is not marked"),
        (lambda f: reply(f.request, bytes(4)), ProtocolError, "GET_FEATURES: payload of 4 bytes instead of 8"),
        (lambda f: reply(f.request, bytes(12)), ProtocolError, "GET_FEATURES: payload of 12 bytes"),
        (lambda f: wire.HEADER.pack(1, 5, 1 << 30), ProtocolError, "GET_FEATURES: payload of 1073741824 bytes is over"),
        (
            lambda f: u64(1, FEATURES | wire.F_PROTOCOL_FEATURES) * 3,
            ProtocolError,
            "there is no open request|the reply is for",
        ),
        (hang_up, LostError, "GET_FEATURES: the connection ended"),
        (lambda f: u64(1, 1 << 28), ProtocolError, r"offers no VERSION_1 \(features 0x10000000 \(INDIRECT_DESC\)\)"),
    ],
)
def test_a_wrong_answer_ends_the_attempt_and_is_named(
    path: str, memory: DmaMemory, answer: Script, kind: type[DeviceError], message: str
) -> None:
    error = asyncio.run(connect_error(path, memory, ScriptedBackend({Request.GET_FEATURES: answer})))
    assert type(error) is kind
    assert path in str(error)
    with pytest.raises(kind, match=message):
        raise error


def test_a_back_end_that_dies_in_mid_message_is_noticed(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()

        def half(frame: Frame) -> None:
            backend.speak(u64(1, FEATURES)[:15])
            raise Hangup

        backend.script[Request.GET_FEATURES] = half
        error = await connect_error(path, memory, backend)
        assert type(error) is LostError
        assert "GET_FEATURES: the connection ended within a message" in str(error)

    asyncio.run(main())


def test_a_connection_that_ended_before_it_has_its_second_channel_leaves_none_behind() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        client = Client(Channel(ours), "here", 1.0)
        theirs.close()
        await until(lambda: client.lost)
        with pytest.raises(LostError):
            await client.set_backend_req_fd()
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "request_", [Request.GET_FEATURES, Request.GET_QUEUE_NUM, Request.SET_BACKEND_REQ_FD, Request.SET_STATUS]
)
def test_a_silent_back_end_costs_one_deadline(path: str, memory: DmaMemory, request_: Request) -> None:
    backend = ScriptedBackend({request_: silent})
    error = asyncio.run(connect_error(path, memory, backend, message_timeout=0.5))
    assert type(error) is DeadlineError
    assert error.errno == errno.ETIMEDOUT
    assert f"{path}: {request_.name}: no answer within 0.5 s" in str(error)


def test_connecting_as_a_whole_has_a_deadline_too(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend({Request.GET_QUEUE_NUM: silent})
    error = asyncio.run(connect_error(path, memory, backend, timeout=0.5))
    assert type(error) is DeadlineError
    assert "GET_QUEUE_NUM" in str(error)


def test_a_peer_that_accepts_and_says_nothing_blocks_nobody_else(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend({Request.GET_FEATURES: silent})
        async with backend.at(path):
            transport = VhostUserTransport(path, memory)
            connecting = asyncio.create_task(transport.connect(PATIENCE_S))
            await until(lambda: Request.GET_FEATURES in backend.requests)
            for _ in range(10):
                await asyncio.sleep(0.01)
            assert not connecting.done()
            connecting.cancel()
            await asyncio.wait([connecting])
            await transport.close()

    asyncio.run(main())


def test_a_full_listen_queue_ends_at_the_deadline(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(path)
                with pytest.raises(DeadlineError, match="the listen queue stayed full for 0"):
                    await soon(VhostUserTransport(path, memory).connect(0.2))

    asyncio.run(main())


def test_no_socket_and_nobody_listening_are_told_apart(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        transport = VhostUserTransport(path, memory)
        with pytest.raises(ConnectError, match=f"connect to {path}: No such file or directory") as caught:
            await transport.connect(1)
        assert caught.value.errno == errno.ENOENT
        with socket.socket(socket.AF_UNIX) as unheard:
            unheard.bind(path)
            with pytest.raises(ConnectError, match=f"connect to {path}: Connection refused") as caught:
                await transport.connect(1)
            assert caught.value.errno == errno.ECONNREFUSED
        for wrong in ("/tmp/" + "x" * 200, "/tmp/a\0b"):
            with pytest.raises(ConnectError, match="connect to "):
                await VhostUserTransport(wrong, memory).connect(1)

    asyncio.run(main())


def test_descriptors_that_nobody_asked_for_are_closed(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        with socket.socket() as extra:
            backend.reply_fds = [extra.fileno()] * 8
            async with backend.at(path):
                transport = VhostUserTransport(path, memory)
                before = open_descriptors()
                await transport.connect(PATIENCE_S)
                assert len(await transport.read_config(0, 60)) == 60
                assert open_descriptors() < before + 8
                await transport.close()

    asyncio.run(main())


def test_zero_queues_are_refused(path: str, memory: DmaMemory) -> None:
    backend = ScriptedBackend({Request.GET_QUEUE_NUM: lambda f: u64(f.request, 0)})
    error = asyncio.run(connect_error(path, memory, backend))
    assert "GET_QUEUE_NUM: the device has 0 queues" in str(error)


def test_a_refusal_is_told_and_leaves_the_connection_usable(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        refusal: dict[Request, Script] = {Request.ADD_MEM_REG: lambda f: u64(f.request, 22)}
        async with ScriptedBackend(refusal).at(path):
            transport = VhostUserTransport(path, memory)
            await transport.connect(PATIENCE_S)
            with pytest.raises(DeviceError, match=r"ADD_MEM_REG was refused \(result 22\)"):
                await transport.share_memory()
            assert len(await transport.read_config(0, 60)) == 60
            await transport.close()

    asyncio.run(main())


def test_without_reply_ack_each_setting_is_followed_by_a_question(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        protocol = 1 << ProtocolFeature.MQ | 1 << ProtocolFeature.CONFIG
        backend = ScriptedBackend(protocol=protocol)
        async with backend.at(path):
            transport = VhostUserTransport(path, memory)
            await transport.connect(PATIENCE_S)
            del backend.requests[:], backend.fd_counts[:]
            await transport.share_memory()
            assert backend.requests == [Request.SET_MEM_TABLE, Request.GET_FEATURES]
            assert backend.fd_counts == [1, 0]
            assert not transport.memory_hot_add
            # So the death of the back-end over a request is the failure of that request.
            backend.script[Request.SET_VRING_NUM] = hang_up
            with pytest.raises(LostError, match=r"SET_VRING_NUM( or GET_FEATURES)?: "):
                await transport.setup_queue(0, layout_at(memory.regions[0].address))
            await transport.close()

    asyncio.run(main())


def test_a_back_end_that_hangs_up_after_its_answer_is_said_to_do_so(path: str, memory: DmaMemory) -> None:
    """The message that comes next is not named alone, whether it could still be sent or not."""

    async def main() -> None:
        backend = ScriptedBackend()

        def answer_last(frame: Frame) -> None:
            backend.speak(u64(frame.request, 0))
            raise Hangup

        backend.script[Request.SET_VRING_NUM] = answer_last
        async with backend.at(path):
            transport = VhostUserTransport(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.connect(PATIENCE_S)
            await transport.share_memory()
            with pytest.raises(LostError, match="after SET_VRING_NUM was answered"):
                await transport.setup_queue(0, layout_at(memory.regions[0].address))
            await until(lambda: bool(lost))
            assert "after SET_VRING_NUM was answered" in str(lost[0])
            with pytest.raises(LostError, match=r"after SET_VRING_NUM was answered.*; GET_CONFIG was not sent"):
                await transport.read_config(0, 60)
            await transport.close()

    asyncio.run(main())


def test_without_protocol_features_none_is_asked_for(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend(features=FEATURES)
        async with backend.at(path):
            transport = VhostUserTransport(path, memory)
            await transport.connect(PATIENCE_S)
            await transport.acknowledge_features(FEATURES)
            await transport.setup_queue(0, layout_at(memory.regions[0].address))
            await transport.start_queue(0)
            await transport.close()
        assert not {Request.GET_PROTOCOL_FEATURES, Request.SET_VRING_ENABLE, Request.GET_QUEUE_NUM} & set(
            backend.requests
        )

    asyncio.run(main())


def test_an_unexpected_reply_while_idle_is_a_loss(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = VhostUserTransport(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.connect(PATIENCE_S)
            backend.speak(u64(Request.GET_FEATURES, 0))
            await until(lambda: lost)
            assert "GET_FEATURES: there is no open request" in str(lost[0])
            with pytest.raises(LostError, match="GET_CONFIG was not sent"):
                await transport.read_config(0, 60)
            await transport.close()
            assert len(lost) == 1

    asyncio.run(main())


def test_a_cancelled_request_gives_the_connection_up(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with ScriptedBackend({Request.GET_CONFIG: silent}).at(path):
            transport = VhostUserTransport(path, memory, config_sizes=[60])
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.connect(PATIENCE_S)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await transport.read_config(0, 60)
            await until(lambda: lost)
            assert "GET_CONFIG was given up" in str(lost[0])
            await transport.close()

    asyncio.run(main())


Check = Callable[[ScriptedBackend, VhostUserTransport, list[DeviceError]], Awaitable[None]]


async def with_notify(path: str, memory: DmaMemory, check: Check) -> None:
    """Run check(backend, transport, lost) on a connection whose back-end has its own channel."""
    backend = ScriptedBackend()
    async with backend.at(path):
        transport = VhostUserTransport(path, memory)
        lost: list[DeviceError] = []
        transport.on_lost = lost.append
        await transport.connect(PATIENCE_S)
        backend.channel.setblocking(False)
        try:
            await check(backend, transport, lost)
        finally:
            await transport.close()


def test_a_config_change_is_told_and_acknowledged(path: str, memory: DmaMemory) -> None:
    async def check(backend: ScriptedBackend, transport: VhostUserTransport, lost: list[DeviceError]) -> None:
        changes = []
        transport.on_config_change = lambda: changes.append(1)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(backend.channel, wire.pack(2, b"", wire.FLAG_NEED_REPLY))
        assert await loop.sock_recv(backend.channel, 100) == u64(2, 0)
        await loop.sock_sendall(backend.channel, wire.pack(2))
        await until(lambda: len(changes) == 2)

    asyncio.run(with_notify(path, memory, check))


def test_an_unknown_back_end_request_is_answered_by_an_error(path: str, memory: DmaMemory) -> None:
    async def check(backend: ScriptedBackend, transport: VhostUserTransport, lost: list[DeviceError]) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(backend.channel, wire.pack(3, bytes(24), wire.FLAG_NEED_REPLY))
        assert await loop.sock_recv(backend.channel, 100) == u64(3, 1)
        assert not lost

    asyncio.run(with_notify(path, memory, check))


def test_garbage_on_the_back_ends_channel_is_a_loss(path: str, memory: DmaMemory) -> None:
    async def check(backend: ScriptedBackend, transport: VhostUserTransport, lost: list[DeviceError]) -> None:
        await asyncio.get_running_loop().sock_sendall(backend.channel, b"\xff" * 64)
        await until(lambda: lost)
        assert "back-end channel: message 4294967295: header flags" in str(lost[0])

    asyncio.run(with_notify(path, memory, check))


def test_a_back_end_that_closes_its_own_channel_is_kept(path: str, memory: DmaMemory) -> None:
    async def check(backend: ScriptedBackend, transport: VhostUserTransport, lost: list[DeviceError]) -> None:
        backend.channel.close()
        backend.notify = None
        assert len(await transport.read_config(0, 60)) == 60
        assert not lost

    asyncio.run(with_notify(path, memory, check))
