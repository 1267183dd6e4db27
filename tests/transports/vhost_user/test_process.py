"""Who is at the other end of a socket, and whether it still runs."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from tests.support.peers import Peer, peer
from tests.support.rig import in_loop
from tests.support.waiting import until
from virtiod.transports.vhost_user import process
from virtiod.transports.vhost_user.process import peer_process

LISTEN = (
    "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(3600)"
)


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


@pytest.mark.programs
@pytest.mark.parametrize("option", [process.SO_PEERPIDFD, 9999])
def test_the_end_of_the_process_that_listens_is_told(
    run_dir: Path, option: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel does not know SO_PEERPIDFD."""
    monkeypatch.setattr(process, "SO_PEERPIDFD", option)

    async def main(listener: Peer) -> None:
        with connected(listener.socket) as sock:
            found = peer_process(sock)
            assert found is not None
            assert (found.pid, found.ended) == (listener.process.pid, False)
            with connected(listener.socket) as again:
                same = peer_process(again)
                assert same is not None
                assert same.peer == found.peer
                assert found.peer.started > 0
                same.close()
            assert str(found).startswith(f"process {found.pid} (python")
            ended: list[bool] = []

            def note() -> None:
                ended.append(found.ended)
                found.close()

            found.on_end(note)
            await asyncio.to_thread(listener.kill)
            await until(lambda: ended)
            assert ended == [True]
            found.close()

    path = run_dir / "listen"
    with peer(run_dir, [sys.executable, "-c", LISTEN, path], path) as listener:
        asyncio.run(main(listener))


@in_loop
async def test_this_process_and_what_is_no_listener_say_nothing(run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "own"))
        listener.listen()
        with connected(run_dir / "own") as sock:
            assert peer_process(sock) is None
