"""What the layer above may expect of every transport (virtiod/transports/interface.py), tried on real devices.

Each transport's tests subclass TransportContract and say in a fixture `case` how to reach a virtio-blk device: over
vhost-user in tests/transports/vhost_user/test_contract.py, over PCI in tests/guest/test_contract.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from tests.support.waiting import PATIENCE_S
from virtiod.core.errors import DeviceError, InvalidArgument
from virtiod.core.memory import DmaMemory
from virtiod.transports.epoch import EpochState
from virtiod.transports.interface import QueueLayout, Transport
from virtiod.virtio.features import BlkFeature, Feature

CONFIG_SIZE = 60  # of virtio-blk, through write zeroes (virtio 1.2 §5.2.4)
WRITEBACK = 32  # offset of the cache's mode
MIB = 1 << 20
RING_BYTES = 32768


@dataclass
class Case:
    """A virtio-blk device with the queues and the capacity (bytes) said, and a way to it."""

    make: Callable[[], Transport]
    memory: DmaMemory
    queues: int
    capacity: int
    lost: list[DeviceError] = field(default_factory=list)
    rings: list[int] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def transport(self) -> AsyncIterator[Transport]:
        """A transport that notes losses, and lets go of its device at the end."""
        transport = self.make()
        transport.on_lost = self.lost.append
        try:
            yield transport
        finally:
            await transport.close()
            await transport.release()
            if transport.epoch is not None:
                transport.epoch.forget()

    async def bring_up(self, transport: Transport) -> bytes:
        """As the controllers do it; returns the configuration."""
        await transport.connect(PATIENCE_S)
        await transport.acknowledge_features(transport.device_features())
        config = await transport.read_config(0, CONFIG_SIZE)
        await transport.share_memory()
        for index in range(self.queues):
            await transport.setup_queue(index, self.layout(transport, index))
            await transport.start_queue(index)
        await transport.driver_ok()
        return config

    def layout(self, transport: Transport, index: int) -> QueueLayout:
        while len(self.rings) <= index:
            self.rings.append(self.memory.allocate(RING_BYTES, in_one_page=True))
        address = self.rings[index]
        size = min(128, transport.max_queue_size())
        return QueueLayout(size, address, address + 8192, address + 16384)


def run(test: Callable[[], object]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


class TransportContract:
    """The behaviours."""

    def test_it_offers_what_virtiod_needs(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                await transport.connect(PATIENCE_S)
                features = transport.device_features()
                for needed in (Feature.VERSION_1, Feature.INDIRECT_DESC, Feature.EVENT_IDX, BlkFeature.FLUSH):
                    assert features >> needed & 1, needed
                assert transport.max_queues() == case.queues
                size = transport.max_queue_size()
                assert size >= 64
                assert not size & (size - 1)

        run(main)

    def test_it_comes_up_and_goes_down_twice(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                for _ in range(2):
                    config = await case.bring_up(transport)
                    assert len(config) == CONFIG_SIZE
                    assert struct.unpack_from("<Q", config)[0] * 512 == case.capacity
                    assert [await transport.stop_queue(index) for index in range(case.queues)] == [0] * case.queues
                    await transport.close()
                    await transport.close()
            assert not case.lost

        run(main)

    def test_a_session_whose_queues_were_stopped_is_over_when_it_is_closed(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                await case.bring_up(transport)
                first = transport.epoch
                assert first is not None
                assert not first.over
                for index in range(case.queues):
                    await transport.stop_queue(index)
                await transport.close()
                assert first.state is EpochState.QUIESCED
                await case.bring_up(transport)
                assert transport.epoch is not None
                assert transport.epoch.number > first.number

        run(main)

    def test_a_stopped_queue_can_be_set_up_again(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                await case.bring_up(transport)
                for _ in range(2):
                    assert await transport.stop_queue(0) == 0
                    await transport.setup_queue(0, case.layout(transport, 0))
                    await transport.start_queue(0)
            assert not case.lost

        run(main)

    def test_a_part_of_the_configuration_is_as_in_the_whole(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                config = await case.bring_up(transport)
                for offset, size in ((0, 8), (8, 4), (20, 4), (WRITEBACK, 1), (34, 2), (36, 24)):
                    assert await transport.read_config(offset, size) == config[offset : offset + size]
            assert not case.lost

        run(main)

    def test_memory_grows_while_queues_run(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                await case.bring_up(transport)
                assert transport.memory_hot_add
                before = len(case.memory.regions)
                while len(case.memory.regions) < before + 3:
                    case.memory.allocate(2 * MIB)
                    await transport.share_memory()
                assert len(await transport.read_config(0, CONFIG_SIZE)) == CONFIG_SIZE
            assert not case.lost

        run(main)

    def test_a_feature_that_is_not_offered_is_refused(self, case: Case) -> None:
        async def main() -> None:
            async with case.transport() as transport:
                await transport.connect(PATIENCE_S)
                with pytest.raises(InvalidArgument, match="not offered"):
                    await transport.acknowledge_features(transport.device_features() | 1 << 63)

        run(main)
