"""The front-end's adapter: configuration sizes, memory growth, queues, status, loss, and the way back."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support.vhost_user import (
    ALL_PROTOCOL,
    FEATURES,
    Hangup,
    Script,
    ScriptedBackend,
    layout_at,
    reply,
    u64,
)
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import DeviceError, InvalidArgument, LostError, NotSupported, ProtocolError
from virtiod.core.memory import DmaMemory
from virtiod.transports.vhost_user import wire
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.transports.vhost_user.wire import Frame, MemoryRegion, ProtocolFeature, Request
from virtiod.virtio.status import Status


def without(*features: ProtocolFeature) -> int:
    return ALL_PROTOCOL & ~sum(1 << feature for feature in features)


async def connected(path: str, memory: DmaMemory) -> VhostUserTransport:
    transport = VhostUserTransport(path, memory)
    await transport.connect(PATIENCE_S)
    return transport


@pytest.mark.parametrize("size", [60, 36, 24])
def test_the_configuration_is_asked_for_by_a_size_that_the_back_end_knows(
    path: str, memory: DmaMemory, size: int
) -> None:
    async def main() -> None:
        backend = ScriptedBackend(config=bytes(range(size)))
        async with backend.at(path):
            transport = await connected(path, memory)
            assert await transport.read_config(0, 60) == bytes(range(size))
            assert await transport.read_config(20, 4) == bytes(range(20, 24))
            await transport.close()
        tries = {60: 2, 36: 3, 24: 4}[size]
        assert backend.requests.count(Request.GET_CONFIG) == tries, "a size that works is kept"
        assert backend.connections == 1

    asyncio.run(main())


def test_a_back_end_that_hangs_up_over_a_configuration_size_is_connected_to_again(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()

        def picky(frame: Frame) -> bytes:
            if len(frame.payload) != 12 + 36:
                raise Hangup
            return reply(frame.request, frame.payload)

        backend.script[Request.GET_CONFIG] = picky
        async with backend.at(path):
            transport = await connected(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.acknowledge_features(FEATURES)
            assert await transport.read_config(0, 60) == bytes(36)
            assert lost == []
            assert backend.connections == 2
            assert backend.requests.count(Request.SET_FEATURES) == 2
            backend.hang_up()
            await until(lambda: lost)
            await transport.close()

    asyncio.run(main())


def test_a_back_end_may_come_back_with_another_configuration_size(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend(config=bytes(36))
        async with backend.at(path):
            transport = await connected(path, memory)
            for size, tries in ((36, 2), (36, 1), (60, 2)):
                backend.config = bytes(size)
                del backend.requests[:]
                await transport.connect(PATIENCE_S)
                assert len(await transport.read_config(0, 60)) == size
                assert backend.requests.count(Request.GET_CONFIG) == tries
            await transport.close()

    asyncio.run(main())


def test_a_back_end_that_refuses_every_configuration_size_is_named(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with ScriptedBackend(config=bytes(8)).at(path):
            transport = await connected(path, memory)
            with pytest.raises(ProtocolError, match="GET_CONFIG: refused for a size of 60, 36, 24 bytes"):
                await transport.read_config(0, 60)
            await transport.close()

    asyncio.run(main())


def test_a_configuration_of_another_size_than_asked_for_is_refused(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        script: dict[Request, Script] = {Request.GET_CONFIG: lambda f: reply(f.request, wire.pack_config(0, bytes(59)))}
        async with ScriptedBackend(script).at(path):
            transport = await connected(path, memory)
            with pytest.raises(ProtocolError, match=r"GET_CONFIG: got 0\+59 where 0\+60 was asked for"):
                await transport.read_config(0, 60)
            await transport.close()

    asyncio.run(main())


def test_a_back_end_without_config_says_so(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with ScriptedBackend(protocol=without(ProtocolFeature.CONFIG)).at(path):
            transport = await connected(path, memory)
            with pytest.raises(NotSupported, match="lacks CONFIG"):
                await transport.read_config(0, 36)
            await transport.close()

    asyncio.run(main())


def test_memory_that_grew_is_added_by_regions(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            assert transport.memory_hot_add
            await transport.share_memory()
            memory.allocate(2 << 20)
            await asyncio.gather(transport.share_memory(), transport.share_memory())
            assert backend.requests.count(Request.ADD_MEM_REG) == len(memory.regions) == 2
            assert Request.SET_MEM_TABLE not in backend.requests
            await transport.close()

    asyncio.run(main())


def test_memory_that_grew_is_sent_as_a_new_table_where_slots_are_not_agreed(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        tables: list[list[MemoryRegion]] = []

        def table(frame: Frame) -> bytes:
            tables.append(wire.parse_mem_table(frame.payload))
            return u64(frame.request, 0)

        script: dict[Request, Script] = {Request.SET_MEM_TABLE: table}
        async with ScriptedBackend(script, protocol=without(ProtocolFeature.CONFIGURE_MEM_SLOTS)).at(path):
            transport = await connected(path, memory)
            assert not transport.memory_hot_add
            await transport.share_memory()
            await transport.share_memory()
            memory.allocate(2 << 20)
            await transport.share_memory()
            assert [len(regions) for regions in tables] == [1, 2]
            first = memory.regions[0]
            assert tables[1][0] == (first.address, first.size, first.address, 0)
            assert tables[1][1].offset == memory.regions[1].offset
            for _ in range(7):
                memory.allocate(2 << 20)
            with pytest.raises(NotSupported, match="DMA memory has 9 regions, the back-end takes 8"):
                await transport.share_memory()
            await transport.close()

    asyncio.run(main())


def test_features_that_were_not_offered_can_not_be_acknowledged(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        async with ScriptedBackend().at(path):
            transport = await connected(path, memory)
            assert transport.device_features() == FEATURES, "vhost's own bits stay inside"
            with pytest.raises(InvalidArgument, match="RING_PACKED"):
                await transport.acknowledge_features(1 << 34)
            await transport.close()

    asyncio.run(main())


def test_a_device_that_clears_features_ok_is_refused(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        script: dict[Request, Script] = {
            Request.GET_STATUS: lambda f: u64(f.request, Status.ACKNOWLEDGE | Status.DRIVER)
        }
        async with ScriptedBackend(script).at(path):
            transport = await connected(path, memory)
            with pytest.raises(ProtocolError, match=r"refused FEATURES_OK for .*VERSION_1.* \(status 0x3\)"):
                await transport.acknowledge_features(FEATURES)
            await transport.close()

    asyncio.run(main())


def test_the_sequence_of_an_attach_and_a_detach(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            await transport.acknowledge_features(FEATURES)
            await transport.share_memory()
            del backend.requests[:]
            bell = await transport.setup_queue(1, layout_at(memory.regions[0].address, base=65530))
            await transport.start_queue(1)
            await transport.driver_ok()
            assert await transport.stop_queue(1) == 0
            assert await transport.setup_queue(1, layout_at(memory.regions[0].address)) == bell
            await transport.start_queue(1)
            assert await transport.stop_queue(1) == 0
            setup = [
                Request.SET_VRING_NUM,
                Request.SET_VRING_BASE,
                Request.SET_VRING_ADDR,
                Request.SET_VRING_ERR,
                Request.SET_VRING_CALL,
                Request.SET_VRING_KICK,
                Request.SET_VRING_ENABLE,
            ]
            stop = Request.GET_VRING_BASE
            assert backend.requests == [*setup, Request.SET_STATUS, stop, *setup, stop]
            with pytest.raises(InvalidArgument, match="queue 4 is not among the device's 4"):
                await transport.setup_queue(4, layout_at(memory.regions[0].address))
            await transport.close()
            await transport.close()

    asyncio.run(main())


def test_a_reply_for_another_ring_is_refused(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        script: dict[Request, Script] = {
            Request.GET_VRING_BASE: lambda f: reply(f.request, wire.VRING_STATE.pack(7, 0))
        }
        async with ScriptedBackend(script).at(path):
            transport = await connected(path, memory)
            await transport.setup_queue(0, layout_at(memory.regions[0].address))
            await transport.start_queue(0)
            with pytest.raises(ProtocolError, match="the reply is for ring 7, not 0"):
                await transport.stop_queue(0)
            await transport.close()

    asyncio.run(main())


def test_a_ring_that_the_back_end_marks_as_broken_is_a_loss(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.setup_queue(2, layout_at(memory.regions[0].address))
            os.eventfd_write(transport._queues[2].err_fd, 1)
            await until(lambda: lost)
            assert "marked queue 2 as broken" in str(lost[0])
            await transport.close()

    asyncio.run(main())


def test_a_back_end_that_takes_back_its_mark_can_not_block_the_loop(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            await transport.setup_queue(2, layout_at(memory.regions[0].address))
            queue = transport._queues[2]
            os.set_blocking(queue.err_fd, True)
            transport._ring_broken(2, queue)  # as when the back-end has read its mark after the loop saw it
            assert transport._client is not None
            assert transport._client.lost is None
            await transport.close()

    asyncio.run(main())


def test_a_lost_back_end_is_noticed_at_once_and_can_be_connected_to_again(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            await transport.share_memory()
            bell = await transport.setup_queue(0, layout_at(memory.regions[0].address))
            backend.hang_up()
            await until(lambda: lost)
            assert type(lost[0]) is LostError
            await transport.connect(PATIENCE_S)
            await transport.share_memory()
            assert backend.requests.count(Request.ADD_MEM_REG) == 2, "a new connection knows no memory"
            assert await transport.setup_queue(0, layout_at(memory.regions[0].address)) == bell
            assert len(lost) == 1
            await transport.close()

    asyncio.run(main())


def test_nothing_is_told_after_close(path: str, memory: DmaMemory) -> None:
    async def main() -> None:
        backend = ScriptedBackend()
        async with backend.at(path):
            transport = await connected(path, memory)
            lost: list[DeviceError] = []
            transport.on_lost = lost.append
            backend.hang_up()
            await transport.close()
            await asyncio.sleep(0.01)
            assert lost == []
            with pytest.raises(LostError, match="not connected"):
                await transport.share_memory()

    asyncio.run(main())


def test_info_is_what_rpc_shows(path: str, memory: DmaMemory) -> None:
    assert VhostUserTransport(path, memory).info() == {"type": "user", "socket": path}
