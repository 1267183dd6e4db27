"""The front-end against qemu-storage-daemon: what is its own, beside what every transport does (test_contract.py)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.peers import Peer, storage_daemon
from tests.support.vhost_user import layout_at
from tests.support.waiting import PATIENCE_S, until
from virtiod.core.errors import DeadlineError, DeviceError, LostError
from virtiod.core.memory import DmaMemory
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.virtio.features import BlkFeature, Feature

pytestmark = pytest.mark.programs

QUEUES = 3
SIZE = 1 << 30
NULL = f"driver=null-co,size={SIZE},read-zeroes=on"
EXPECTED = (
    1 << Feature.VERSION_1
    | 1 << Feature.INDIRECT_DESC
    | 1 << Feature.EVENT_IDX
    | 1 << BlkFeature.MQ
    | 1 << BlkFeature.FLUSH
)


def capacity(config: bytes) -> int:
    (blocks,) = struct.unpack_from("<Q", config)
    return int(blocks) * 512


async def bring_up(transport: VhostUserTransport, memory: DmaMemory) -> bytes:
    await transport.connect(PATIENCE_S)
    assert transport.device_features() & EXPECTED == EXPECTED
    await transport.acknowledge_features(transport.device_features())
    config = await transport.read_config(0, 60)
    await transport.share_memory()
    for index in range(QUEUES):
        await transport.setup_queue(index, layout_at(memory.regions[0].address + index * 32768))
        await transport.start_queue(index)
    await transport.driver_ok()
    return config


@contextlib.asynccontextmanager
async def closing(transport: VhostUserTransport) -> AsyncIterator[list[DeviceError]]:
    """Yields the losses that the transport told of so far."""
    lost: list[DeviceError] = []
    transport.on_lost = lost.append
    try:
        yield lost
    finally:
        await transport.close()


def test_more_than_the_known_configuration_is_refused_and_a_fitting_size_is_found(
    run_dir: Path, memory: DmaMemory
) -> None:
    async def main(socket: Path) -> None:
        transport = VhostUserTransport(str(socket), memory, config_sizes=[256, 60])
        async with closing(transport) as lost:
            await transport.connect(PATIENCE_S)
            assert capacity(await transport.read_config(0, 60)) == SIZE
            assert not lost

    with storage_daemon(run_dir, NULL) as daemon:
        asyncio.run(main(daemon.socket))


def test_a_killed_daemon_is_noticed_and_its_successor_is_connected_to(run_dir: Path, memory: DmaMemory) -> None:
    async def main() -> None:
        transport = VhostUserTransport(str(run_dir / "qsd.sock"), memory)
        async with closing(transport) as lost:
            with storage_daemon(run_dir, NULL, queues=QUEUES) as daemon:
                await bring_up(transport, memory)
                daemon.kill()
                await until(lambda: lost)
                assert type(lost[0]) is LostError
            with storage_daemon(run_dir, NULL, queues=QUEUES):
                assert capacity(await bring_up(transport, memory)) == SIZE
            await until(lambda: len(lost) == 2)

    asyncio.run(main())


def test_a_stopped_daemon_costs_a_deadline(run_dir: Path, memory: DmaMemory) -> None:
    async def main(daemon: Peer) -> None:
        transport = VhostUserTransport(str(daemon.socket), memory, message_timeout=1)
        async with closing(transport) as lost:
            await bring_up(transport, memory)
            daemon.pause()
            with pytest.raises(DeadlineError, match=r"GET_VRING_BASE: no answer within 1 s"):
                await transport.stop_queue(0)
            await until(lambda: lost)
            first = transport.epoch
            assert first is not None
            with pytest.raises(DeadlineError):
                await transport.connect(0.2)
            first.forget()
            daemon.resume()

    with storage_daemon(run_dir, NULL, queues=QUEUES) as daemon:
        asyncio.run(main(daemon))
