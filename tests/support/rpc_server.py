"""What a client of the RPC meets: a daemon, or a server that says what the test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon import FakeDaemon, running


def with_daemon(run_dir: Path, use: Callable[[str, FakeDaemon], None], **options: Any) -> None:
    """Runs use(socket path, daemon) in a thread beside a daemon."""

    async def run() -> None:
        async with running(run_dir, **options) as daemon:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()

            def work() -> None:
                try:
                    use(str(run_dir / "rpc"), daemon)
                except BaseException as error:
                    loop.call_soon_threadsafe(done.set_exception, error)
                else:
                    loop.call_soon_threadsafe(done.set_result, None)

            thread = threading.Thread(target=work)
            thread.start()
            try:
                await done
            finally:
                thread.join()

    asyncio.run(run())


@contextmanager
def scripted(run_dir: Path, answer: bytes | None) -> Iterator[str]:
    """A peer that answers each connection's first piece with these bytes; None: never."""
    path = str(run_dir / "peer")
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                connected, _ = listener.accept()
                with connected:
                    if over.is_set():
                        return
                    connected.recv(65536)
                    if answer is None:
                        over.wait(10)
                    else:
                        connected.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)
            thread.join()
