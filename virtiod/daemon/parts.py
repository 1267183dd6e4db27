"""What a daemon is made of, and in what order it comes up: the one place where the layers are put together.

Each part pushes its end on the stack as soon as it exists, so that a start that fails and an orderly stop go
the same way back.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from virtiod.controllers.hotplug import Hotplug
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.exports.nbd.manager import ExportManager
from virtiod.exports.nbd.transmission import NbdDataPlane
from virtiod.http.app import create_app
from virtiod.http.security.tls import Tls
from virtiod.http.security.tokens import Tokens
from virtiod.http.server import HttpServer
from virtiod.system import Engine

if TYPE_CHECKING:
    from virtiod.daemon.daemon import Daemon


class Parts:
    """The real parts. Tests give the daemon others."""

    async def build(self, daemon: Daemon, stack: AsyncExitStack) -> None:
        """Before RPC can be called: gives the daemon its memory, pollers, buffers, bdevs, controllers, ... and perf.

        No poller runs yet. HTTP listens, so that health can be asked for from the beginning to the end.
        """
        options = daemon.options
        engine = Engine(
            options.cpus,
            options.memory_mib,
            options.poll_mode,
            options.poll_us,
            options.io_timeout_s,
            options.allow_unbind,
        )
        stack.push_async_callback(engine.stop)
        daemon.memory = engine.memory
        daemon.pollers = engine.pollers
        daemon.buffers = engine.buffers
        daemon.bdevs = engine.bdevs
        daemon.controllers = engine.controllers
        daemon.perf = engine.perf
        daemon.nulls = engine.nulls
        daemon.hotplug = Hotplug(engine.controllers, options.allow_unbind)
        stack.push_async_callback(daemon.hotplug.stop)
        self.engine = engine
        daemon.exports = ExportManager(
            engine.bdevs, NbdDataPlane(list(zip(engine.pollers, engine.buffers, strict=True)))
        )
        handed = daemon.sockets.get("http")
        if options.http is not None or handed is not None:
            tokens = Tokens(options.http_tokens) if options.http_tokens else None
            tls = Tls(options.http_tls) if options.http_tls else None
            app = create_app(daemon, tokens, options.http_rpc)
            self.http = http = HttpServer(app, *(options.http or ("", 0)), tls=tls, tokens=tokens, listener=handed)
            await http.start()
            daemon.configuration.also_read.append(http.reload)
            stack.push_async_callback(http.stop)
        stack.push_async_callback(daemon.exports.stop)

    async def open(self, daemon: Daemon, stack: AsyncExitStack) -> None:
        """When initialisation begins: pollers run, exports listen."""
        self.engine.start()
        options = daemon.options
        handed = daemon.sockets.get("nbd")
        if handed is not None:
            await daemon.exports.serve(handed)
        if options.nbd_socket and not _is_at(handed, options.nbd_socket):
            await daemon.exports.listen(ListenAddress.parse(f"unix:{options.nbd_socket}"))
        if options.nbd_listen:
            await daemon.exports.listen(ListenAddress.parse(f"tcp:{options.nbd_listen}"))


def _is_at(listener: socket.socket | None, path: str) -> bool:
    return listener is not None and listener.family == socket.AF_UNIX and listener.getsockname() == path
