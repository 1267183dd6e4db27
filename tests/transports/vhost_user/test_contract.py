"""The vhost-user transport does what every transport does, against qemu-storage-daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.transport import Case, TransportContract
from tests.support.peers import Peer, storage_daemon
from tests.support.waiting import soon, until
from virtiod.core.memory import DmaMemory
from virtiod.transports.epoch import EpochState
from virtiod.transports.vhost_user.transport import VhostUserTransport

pytestmark = pytest.mark.programs

QUEUES = 3
SIZE = 1 << 30


@pytest.fixture
def case(run_dir: Path, memory: DmaMemory) -> Iterator[Case]:
    with storage_daemon(run_dir, f"driver=null-co,size={SIZE},read-zeroes=on", queues=QUEUES) as daemon:
        yield Case(lambda: VhostUserTransport(str(daemon.socket), memory), memory, QUEUES, SIZE)


class TestVhostUser(TransportContract):
    def test_a_session_that_was_not_stopped_is_possibly_alive_until_its_process_has_ended(
        self, run_dir: Path, memory: DmaMemory
    ) -> None:
        async def main(daemon: Peer) -> None:
            case = Case(lambda: VhostUserTransport(str(daemon.socket), memory), memory, QUEUES, SIZE)
            async with case.transport() as transport:
                await case.bring_up(transport)
                epoch = transport.epoch
                assert epoch is not None
                daemon.pause()
                await transport.close()
                assert not epoch.over
                assert f"process {daemon.process.pid}" in epoch.reason
                await asyncio.to_thread(daemon.kill)
                await soon(epoch.wait_over())
                assert epoch.state is EpochState.DEAD

        with storage_daemon(run_dir, f"driver=null-co,size={SIZE},read-zeroes=on", queues=QUEUES) as daemon:
            asyncio.run(main(daemon))

    def test_the_session_of_a_process_that_was_killed_is_over(self, run_dir: Path, memory: DmaMemory) -> None:
        async def main(daemon: Peer) -> None:
            case = Case(lambda: VhostUserTransport(str(daemon.socket), memory), memory, QUEUES, SIZE)
            async with case.transport() as transport:
                await case.bring_up(transport)
                await asyncio.to_thread(daemon.kill)
                await until(lambda: case.lost)
                await transport.close()
                assert transport.epoch is not None
                assert transport.epoch.state is EpochState.DEAD

        with storage_daemon(run_dir, f"driver=null-co,size={SIZE},read-zeroes=on", queues=QUEUES) as daemon:
            asyncio.run(main(daemon))
