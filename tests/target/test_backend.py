"""The target's back-end: with the project's own front-end, and against front-ends that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from tests.support.vhost_user import ALL_PROTOCOL, BookDevice, layout_at
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import Busy, DeviceError, InvalidArgument, LostError
from virtiod.core.memory import DmaMemory
from virtiod.target import backend, session
from virtiod.target.backend import Backend
from virtiod.target.session import OFFERED
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.client import Client, open_socket
from virtiod.transports.vhost_user.connection import Channel
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import MemoryRegion, ProtocolFeature, Request
from virtiod.virtio.features import Feature

WITHOUT_SLOTS = OFFERED & ~(1 << ProtocolFeature.CONFIGURE_MEM_SLOTS)


@contextlib.asynccontextmanager
async def serving(path: str, device: BookDevice, protocol_features: int = OFFERED) -> AsyncIterator[Backend]:
    served = Backend(path, device, protocol_features)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()
        assert not device.running
        assert device.regions == ()


@contextlib.asynccontextmanager
async def attached(path: str, memory: DmaMemory) -> AsyncIterator[VhostUserTransport]:
    transport = VhostUserTransport(path, memory)
    try:
        await transport.connect(PATIENCE_S)
        await transport.acknowledge_features(transport.device_features())
        await transport.share_memory()
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def raw(
    path: str, protocol: int = 1 << ProtocolFeature.REPLY_ACK | 1 << ProtocolFeature.CONFIGURE_MEM_SLOTS
) -> AsyncIterator[Client]:
    """A client that may ask for anything."""
    client = Client(Channel(await open_socket(path, PATIENCE_S)), path, PATIENCE_S)
    try:
        if protocol:
            await client.set_protocol_features(protocol)
        yield client
    finally:
        await client.close()


def mode_of(path: str) -> int | None:
    """Permissions of a socket, None when there is none."""
    try:
        return stat.S_IMODE(Path(path).stat().st_mode)
    except FileNotFoundError:
        return None


def word(address: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(address)


def region_of(memory: DmaMemory, index: int = 0) -> MemoryRegion:
    region = memory.regions[index]
    return MemoryRegion(region.address, region.size, region.address, region.offset)


def test_both_sides_agree_on_features_configuration_and_queues(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice(num_queues=3)
        async with serving(path, device), attached(path, memory) as transport:
            offered = device.features | 1 << Feature.VERSION_1 | 1 << Feature.INDIRECT_DESC | 1 << Feature.EVENT_IDX
            assert transport.device_features() == offered
            assert transport.max_queues() == 3
            assert await transport.read_config(0, 60) == bytes(range(60))

    asyncio.run(main())


def test_a_front_end_writes_what_it_may_of_the_configuration(path: str) -> None:
    async def main() -> None:
        async with serving(path, BookDevice()), raw(path) as client:
            await client._set(Request.SET_CONFIG, wire.pack_config(32, b"\1"))
            assert (await client.get_config(32, 1)) == b"\1"
            await refused(client._set(Request.SET_CONFIG, wire.pack_config(0, b"\1")), "SET_CONFIG")

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [OFFERED, WITHOUT_SLOTS, 1 << ProtocolFeature.CONFIG, 0])
def test_a_queue_runs_with_the_memory_and_the_descriptors_of_the_front_end(
    path: str, memory: DmaMemory, protocol: int
) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device, protocol_features=protocol), attached(path, memory) as transport:
            for _ in range(2):
                address = memory.regions[0].address
                bell = await transport.setup_queue(0, layout_at(address, base=65530))
                await transport.start_queue(0)
                setup = device.running[0]
                assert (setup.size, setup.base, setup.event_idx) == (128, 65530, True)
                for ours, theirs in (
                    (address, setup.desc),
                    (address + 8192, setup.avail),
                    (address + 16384, setup.used),
                ):
                    word(ours).value = 0x1234
                    assert ours != theirs
                    assert word(theirs).value == 0x1234
                    word(theirs).value = 0x4321
                    assert word(ours).value == 0x4321
                os.eventfd_write(bell.kick_fd, 1)
                assert os.eventfd_read(setup.kick_fd) == 1
                os.eventfd_write(setup.call_fd, 1)
                assert os.eventfd_read(bell.call_fd) == 1
                device.base_on_stop[0] = 3
                assert await transport.stop_queue(0) == 3
                assert not device.running

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [OFFERED, WITHOUT_SLOTS])
def test_memory_grows_under_a_running_queue(path: str, memory: DmaMemory, protocol: int) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device, protocol_features=protocol), attached(path, memory) as transport:
            await transport.setup_queue(0, layout_at(memory.regions[0].address, base=7))
            await transport.start_queue(0)
            address = memory.allocate(2 << 20)
            await transport.share_memory()
            assert [region.guest for region in device.regions] == [region.address for region in memory.regions]
            new = next(region for region in device.regions if region.guest <= address < region.guest + region.size)
            word(address).value = 77
            assert word(new.local + address - new.guest).value == 77
            assert device.running[0].base == 7
            assert device.starts == (1 if transport.memory_hot_add else 2)

    asyncio.run(main())


def test_a_config_change_reaches_the_front_end(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device) as backend:
            backend.config_changed()
            async with attached(path, memory) as transport:
                changes = []
                transport.on_config_change = lambda: changes.append(1)
                device.space[0] = 99
                backend.config_changed()
                await until(lambda: changes)
                assert (await transport.read_config(0, 1)) == b"c"

    asyncio.run(main())


def test_a_second_front_end_waits_for_the_first_to_leave(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device):
            second = VhostUserTransport(path, memory)
            async with attached(path, memory) as transport:
                await transport.setup_queue(0, layout_at(memory.regions[0].address))
                await transport.start_queue(0)
                connecting = asyncio.create_task(second.connect(PATIENCE_S))
                await asyncio.sleep(0.05)
                assert not connecting.done()
            await connecting
            assert not device.running, "the queues of the first were stopped"
            await second.close()

    asyncio.run(main())


def test_stop_ends_a_connection_and_removes_the_socket(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device) as backend, attached(path, memory) as transport:
            assert mode_of(path) == 0o600
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.setup_queue(0, layout_at(memory.regions[0].address))
            await transport.start_queue(0)
            await backend.stop()
            await backend.stop()
            assert not device.running
            await until(lambda: lost)
            assert type(lost[0]) is LostError
            assert mode_of(path) is None

    asyncio.run(main())


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        async with serving(path, BookDevice()):
            with pytest.raises(Busy, match="another process does"):
                await Backend(path, BookDevice()).start()
            async with attached(path, memory):
                pass
        with pytest.raises(InvalidArgument, match="listen on /nowhere/s: No such file"):
            await Backend("/nowhere/s", BookDevice()).start()

    asyncio.run(main())


async def refused(call: Awaitable[object], what: str) -> None:
    with pytest.raises(DeviceError, match=f"{what} was refused"):
        await call


def test_memory_that_can_not_be_mapped_is_refused(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        good = region_of(memory)
        async with serving(path, device), raw(path) as client:
            add = client.add_mem_reg
            await refused(add(good._replace(size=good.size + 1), memory.fd), "ADD_MEM_REG")
            await refused(add(good._replace(offset=1 << 40), memory.fd), "ADD_MEM_REG")
            await refused(add(good._replace(size=1 << 62), memory.fd), "ADD_MEM_REG")
            await refused(add(good._replace(size=0), memory.fd), "ADD_MEM_REG")
            end, other = os.pipe()
            await refused(add(good, end), "ADD_MEM_REG")
            os.close(end)
            os.close(other)
            await add(good, memory.fd)
            await refused(add(good, memory.fd), "ADD_MEM_REG")
            await refused(add(good._replace(user=0, guest=good.guest + 4096), memory.fd), "ADD_MEM_REG")
            await refused(client._set(Request.REM_MEM_REG, wire.pack_region(good._replace(size=4096))), "REM_MEM_REG")
            assert [region.guest for region in device.regions] == [good.guest]
            await client._set(Request.REM_MEM_REG, wire.pack_region(good))
            assert device.regions == ()
            await refused(client.set_mem_table([good, good], [memory.fd] * 2), "SET_MEM_TABLE")
            await refused(client.set_mem_table([good], []), "SET_MEM_TABLE")
            await refused(client.set_mem_table([good], [memory.fd] * 2), "SET_MEM_TABLE")
            await client.set_mem_table([good], [memory.fd])

    asyncio.run(main())


def test_regions_have_a_limit(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device), raw(path) as client:
            slots = await client.get_max_mem_slots()
            good = region_of(memory)._replace(size=4096)
            for index in range(slots):
                await client.add_mem_reg(good._replace(guest=index << 20, user=index << 20), memory.fd)
            await refused(client.add_mem_reg(good, memory.fd), "ADD_MEM_REG")
            assert len(device.regions) == slots

    asyncio.run(main())


def test_memory_of_a_running_ring_can_not_be_taken_away(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device), raw(path) as client:
            await start_ring(client, memory)
            await refused(client._set(Request.REM_MEM_REG, wire.pack_region(region_of(memory))), "REM_MEM_REG")
            await refused(client.set_mem_table([], []), "SET_MEM_TABLE")
            assert 0 in device.running
            assert device.regions
            await refused(client.set_vring_num(0, 64), "SET_VRING_NUM")
            await refused(client.set_vring_base(0, 64), "SET_VRING_BASE")
            await refused(client.set_vring_addr(0, 4096, 8192, 16384), "SET_VRING_ADDR")
            await refused(client.set_features(0), "SET_FEATURES")

    asyncio.run(main())


async def start_ring(
    client: Client,
    memory: DmaMemory,
    *,
    size: int = 128,
    desc: int = 0,
    avail: int = 8192,
    used: int = 16384,
    base: int = 0,
) -> None:
    address = memory.regions[0].address
    event = os.eventfd(0)
    try:
        await client.set_features(1 << Feature.VERSION_1)
        await client.add_mem_reg(region_of(memory), memory.fd)
        await client.set_vring_num(0, size)
        await client.set_vring_base(0, base)
        await client.set_vring_addr(0, address + desc, address + avail, address + used)
        await client.set_vring_call(0, event)
        await client.set_vring_kick(0, event)
    finally:
        os.close(event)


@pytest.mark.parametrize(
    ("ring", "what"),
    [
        ({"size": 0}, "SET_VRING_NUM"),
        ({"size": 100}, "SET_VRING_NUM"),
        ({"size": 512}, "SET_VRING_NUM"),
        ({"base": 65536}, "SET_VRING_BASE"),
        ({"desc": 8}, "SET_VRING_KICK"),
        ({"avail": 8193}, "SET_VRING_KICK"),
        ({"used": 16386}, "SET_VRING_KICK"),
        ({"desc": -16}, "SET_VRING_KICK"),
        ({"used": (1 << 20) - 128}, "SET_VRING_KICK"),
        ({"avail": 1 << 30}, "SET_VRING_KICK"),
    ],
)
def test_a_ring_outside_memory_or_off_its_alignment_is_refused(
    path: str, memory: DmaMemory, ring: dict[str, int], what: str
) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device), raw(path) as client:
            await refused(start_ring(client, memory, **ring), what)
            assert not device.running

    asyncio.run(main())


def test_what_names_no_ring_or_was_not_offered_is_refused(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with serving(path, BookDevice(num_queues=2)), raw(path) as client:
            for call, what in (
                (client.set_vring_num(2, 128), "SET_VRING_NUM"),
                (client.set_vring_enable(200, True), "SET_VRING_ENABLE"),
                (client.set_features(1 << 34), "SET_FEATURES"),
                (client.set_protocol_features(ALL_PROTOCOL), "SET_PROTOCOL_FEATURES"),
                (client.set_vring_call(0, memory.fd), None),
                (client._set(Request.RESET_DEVICE), "RESET_DEVICE"),
                (client._set(Request.SET_VRING_KICK, wire.pack_vring_fd(0, True)), "SET_VRING_KICK"),
                (client._set(Request.SET_VRING_KICK, wire.pack_vring_fd(0, False)), "SET_VRING_KICK"),
                (client._set(Request.SET_BACKEND_REQ_FD, b"", [memory.fd]), "SET_BACKEND_REQ_FD"),
                (client._set(Request.SET_OWNER, b"", [memory.fd]), "SET_OWNER"),
            ):
                await (refused(call, what) if what else call)
            assert await client.get_config(200, 57) is None
            assert len(await client.get_config(0, 256) or b"") == 256

    asyncio.run(main())


def test_a_refusal_without_reply_ack_ends_the_connection_only(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with serving(path, BookDevice()):
            async with raw(path, protocol=0) as client:
                with pytest.raises(LostError):
                    await client.set_vring_num(0, 3)
            with socket.socket(socket.AF_UNIX) as garbage:
                garbage.connect(path)
                garbage.sendall(os.urandom(4096))
                async with attached(path, memory):
                    pass

    asyncio.run(main())


def test_a_disabled_ring_stops_and_goes_on_where_it_was(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        device = BookDevice()
        async with serving(path, device), attached(path, memory) as transport:
            await transport.setup_queue(1, layout_at(memory.regions[0].address))
            await transport.start_queue(1)
            client = transport._client
            assert client is not None
            device.base_on_stop[1] = 42
            await client.set_vring_enable(1, False)
            assert not device.running
            await client.set_vring_enable(1, True)
            assert device.running[1].base == 42
            event = os.eventfd(0)
            await client.set_vring_call(1, event)
            os.close(event)
            assert device.starts == 3, "a new call descriptor takes effect at once"

    asyncio.run(main())


def test_a_front_end_that_says_nothing_makes_room_for_the_next(
    path: str, memory: DmaMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_S", 0.1)

    async def main() -> None:
        async with serving(path, BookDevice()):
            silent = await open_socket(path, 1)
            async with attached(path, memory) as transport:
                assert await transport.read_config(0, 60)
                await asyncio.sleep(0.2)  # one that has spoken may be silent for as long as it likes
                assert await transport.read_config(0, 60) == bytes(range(60))
            silent.close()

    asyncio.run(main())


def test_a_front_end_that_nobody_waits_for_may_say_nothing_for_long(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_MESSAGE_S", 0.01)
    looks: list[bool] = []
    look = backend._someone_waits

    def counted(listener: socket.socket) -> bool:
        looks.append(look(listener))
        return looks[-1]

    monkeypatch.setattr(backend, "_someone_waits", counted)

    async def main() -> None:
        async with serving(path, BookDevice()), raw(path, protocol=0) as early:
            await until(lambda: len(looks) > 2)
            await early.set_protocol_features(1 << ProtocolFeature.REPLY_ACK)
            assert not any(looks)

    asyncio.run(main())
