"""A controller behind vhost-user does what every controller does, on the embedded target."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.controller import SIZE, ControllerContract, Way
from tests.support.process import target


@pytest.fixture
def way(run_dir: Path) -> Iterator[Way]:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)

    with target(run_dir, "--file", image, "--queues", "2") as disk:

        def resize(size: int) -> None:
            with image.open("r+b") as file:
                file.truncate(size)
            disk.process.send_signal(signal.SIGHUP)

        def read(offset: int, length: int) -> bytes:
            return image.read_bytes()[offset : offset + length]

        yield Way("user", str(disk.socket), 2, resize, read)


class TestVhostUser(ControllerContract):
    pass
