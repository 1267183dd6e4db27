"""The vhost-user transport does what every transport does, against qemu-storage-daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.transport import Case, TransportContract
from tests.support.peers import storage_daemon
from virtiod.core.memory import DmaMemory
from virtiod.transports.vhost_user.transport import VhostUserTransport

pytestmark = pytest.mark.programs

QUEUES = 3
SIZE = 1 << 30


@pytest.fixture
def case(run_dir: Path, memory: DmaMemory) -> Iterator[Case]:
    with storage_daemon(run_dir, f"driver=null-co,size={SIZE},read-zeroes=on", queues=QUEUES) as daemon:
        yield Case(lambda: VhostUserTransport(str(daemon.socket), memory), memory, QUEUES, SIZE)


class TestVhostUser(TransportContract):
    pass
