"""The front-end against qemu-storage-daemon: what is its own, beside what every transport does (test_contract.py)."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest

from tests.support.peers import storage_daemon
from tests.transports.vhost_user.fakes import layout_at, until
from virtiod.core.errors import DeadlineError, LostError
from virtiod.transports.vhost_user.transport import VhostUserTransport
from virtiod.virtio.features import BlkFeature, Feature

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


def capacity(config):
    return struct.unpack_from("<Q", config)[0] * 512


async def bring_up(transport, memory):
    await transport.connect(5)
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
async def closing(transport):
    transport.lost = []
    transport.on_lost = transport.lost.append
    try:
        yield transport
    finally:
        await transport.close()


def test_more_than_the_known_configuration_is_refused_and_a_fitting_size_is_found(run_dir, memory):
    async def main(socket):
        transport = VhostUserTransport(str(socket), memory, config_sizes=[256, 60])
        async with closing(transport):
            await transport.connect(5)
            assert capacity(await transport.read_config(0, 60)) == SIZE
            assert not transport.lost

    with storage_daemon(run_dir, NULL) as daemon:
        asyncio.run(main(daemon.socket))


def test_a_killed_daemon_is_noticed_and_its_successor_is_connected_to(run_dir, memory):
    async def main():
        async with closing(VhostUserTransport(str(run_dir / "qsd.sock"), memory)) as transport:
            with storage_daemon(run_dir, NULL, queues=QUEUES) as daemon:
                await bring_up(transport, memory)
                daemon.kill()
                await until(lambda: transport.lost)
                assert type(transport.lost[0]) is LostError
            with storage_daemon(run_dir, NULL, queues=QUEUES):
                assert capacity(await bring_up(transport, memory)) == SIZE
            await until(lambda: len(transport.lost) == 2)

    asyncio.run(main())


def test_a_stopped_daemon_costs_a_deadline(run_dir, memory):
    async def main(daemon):
        async with closing(VhostUserTransport(str(daemon.socket), memory, message_timeout=0.2)) as transport:
            await bring_up(transport, memory)
            daemon.pause()
            with pytest.raises(DeadlineError, match=r"GET_VRING_BASE: no answer within 0\.2 s"):
                await transport.stop_queue(0)
            await until(lambda: transport.lost)
            with pytest.raises(DeadlineError):
                await transport.connect(0.2)
            daemon.resume()

    with storage_daemon(run_dir, NULL, queues=QUEUES) as daemon:
        asyncio.run(main(daemon))
