"""The embedded SCSI host as a process, which changes its targets and units as the test says.

with scsi_host(run_dir, "0:0=64M,2:300=null:1G") as host:
    host.do("remove", 2, 300)
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.peers import Peer
from tests.support.waiting import PATIENCE_S
from virtiod.target.scsi.device import HostSpec, ScsiDevice
from virtiod.target.scsi.luns import LunFault, LunSpec, parse_luns
from virtiod.target.target import Target

CALL_S = PATIENCE_S


class ScsiHost(Peer):
    """A process of this module, which listens on `socket`."""

    def __init__(self, run_dir: Path, luns: str, name: str) -> None:
        path = run_dir / f"{name}.sock"
        command: list[str | Path] = [sys.executable, "-m", "tests.e2e.scsi_host", path, luns]
        super().__init__(command, run_dir / f"{name}.log", path)

    def do(self, what: str, *arguments: Any) -> None:
        """One of the actions of act(), done when this returns."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CALL_S)
            connection.connect(f"{self.socket}.ctl")
            connection.sendall(json.dumps([what, *arguments]).encode() + b"\n")
            with connection.makefile() as lines:
                answer = lines.readline()
        assert answer == "done\n", f"{what} {arguments}: {answer or 'the host is gone'}"


@contextmanager
def scsi_host(run_dir: Path, luns: str, name: str = "s") -> Iterator[ScsiHost]:
    """The host, from listening to its end."""
    process = ScsiHost(run_dir, luns, name)
    try:
        process.wait_listening()
        yield process
    finally:
        process.stop()
        for path in (process.socket, Path(f"{process.socket}.ctl")):
            path.unlink(missing_ok=True)


async def act(host: ScsiDevice, what: str, *arguments: Any) -> None:
    """add TARGET LUN BYTES (a null disk), remove TARGET LUN, resize TARGET LUN BYTES,
    fault TARGET LUN TEXT ("" ends it), silence TARGET BOOL, control MODE."""
    if what == "add":
        target, lun, size = arguments
        await host.hot_add(target, lun, LunSpec(size))
    elif what == "remove":
        await host.hot_remove(*arguments)
    elif what == "resize":
        await host.resize(*arguments)
    elif what == "fault":
        target, lun, text = arguments
        host.fault(target, lun, LunFault.parse(text) if text else LunFault())
    elif what == "silence":
        host.silence(*arguments)
    else:
        host.control(*arguments)


async def serve(path: str, luns: str) -> None:
    target = Target({path: HostSpec(parse_luns(luns, LunFault()))})
    host = target.hosts[path]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await act(host, *json.loads(await reader.readline()))
            writer.write(b"done\n")
        except Exception as error:
            writer.write(f"{error!r}\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(obey, f"{path}.ctl")
    await target.start()
    await ended.wait()
    server.close()
    await target.stop()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
