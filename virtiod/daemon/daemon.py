"""The life cycle of a daemon: it builds the system, serves it, and ends both in order.

States: stopped -> startup (RPC answers, nothing else runs) -> runtime -> stopped. A start that fails leaves nothing
behind. Stopping goes backwards: RPC takes no more calls, exports end, controllers are detached, pollers stop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from virtiod import __version__
from virtiod.api.registry import State
from virtiod.api.services import Calls, Files, Lifecycle, Logs
from virtiod.api.services import Health as HealthService
from virtiod.config.configuration import Configuration
from virtiod.core.cmdline import describe
from virtiod.core.counted import counted
from virtiod.core.errors import Busy, DeadlineError
from virtiod.core.tasks import cancel, spawn
from virtiod.core.threads import read_in_thread
from virtiod.daemon.health import Health
from virtiod.daemon.logs import LogControl
from virtiod.daemon.options import Options
from virtiod.exports.table import EXPORTS
from virtiod.http.app import create_app
from virtiod.http.security.tls import Tls
from virtiod.http.security.tokens import Tokens
from virtiod.http.server import HttpServer
from virtiod.rpc.methods import METHODS
from virtiod.rpc.protocol.dispatcher import Dispatcher
from virtiod.rpc.protocol.server import RpcServer
from virtiod.system import System

logger = logging.getLogger(__name__)

_CALLS_TIMEOUT_S = 2.0  # for RPC calls that are running when the daemon stops
_SKIP_TIMEOUT_S = 1.0  # for the steps that are left when the deadline is over
_SKIP_STEP_S = 0.2  # for each of them


def build(options: Options) -> System:
    """The system that the options describe. Raises VirtiodError."""
    return System(
        options.cpus,
        memory_mib=options.memory_mib,
        huge=options.huge,
        poll_mode=options.poll_mode,
        poll_us=options.poll_us,
        io_timeout_s=options.io_timeout_s,
        allow_unbind=options.allow_unbind,
        peer_grace_s=options.peer_grace_s,
    )


class Daemon:
    """One virtiod. start() once, then stop().

    sockets: taken over from a service manager, which listen already: "rpc", "http", or a kind of exports. build: makes
    the system. logs: of the process, which lasts longer than the daemon; None: one of its own.
    """

    def __init__(
        self,
        options: Options,
        sockets: dict[str, socket.socket] | None = None,
        build: Callable[[Options], System] = build,
        logs: LogControl | None = None,
    ) -> None:
        self.options = options
        self.logs = logs or LogControl(options.log_level, options.log_format)
        self.rpc = Dispatcher(METHODS, options.rpcs_allowed)
        self.configuration = Configuration(self.rpc, options.config, options.state)
        self.health = Health(self)
        self.inventory: System | None = None  # as long as start() has not built it
        self.http: HttpServer | None = None
        self.fatal: Exception | None = None  # the reason why it ends by itself
        self.wants_to_stop = asyncio.Event()
        self._sockets = sockets or {}
        self._build = build
        self._server = RpcServer(
            options.rpc_socket, self.rpc, group=options.rpc_group, listener=self._sockets.get("rpc")
        )
        self._stack = AsyncExitStack()
        if logs is None:
            self._stack.callback(self.logs.close)
        self._initialised = asyncio.Event()
        self._starting = False
        self._hurry = asyncio.Event()
        self._stop_deadline = math.inf  # of time.monotonic()

    @property
    def system(self) -> System:
        """The system that it has built; not before start()."""
        assert self.inventory is not None
        return self.inventory

    @property
    def running(self) -> bool:
        return self._initialised.is_set()

    @property
    def stopping(self) -> bool:
        return self._stop_deadline < math.inf

    # ---- start

    async def start(self) -> None:
        """Starts as far as the options say. Raises VirtiodError, and leaves nothing behind then."""
        logger.info("virtiod %s, options %s", __version__, describe(self.options))
        try:
            await self.configuration.read()
            self._server.claim()
            self._stack.push_async_callback(self._server.close)
            system = self.inventory = self._build(self.options)
            self._stack.push_async_callback(system.stop)
            self._provide(system)
            await self._serve_http(system)
            self._stack.push_async_callback(system.exports.stop)
            self._stack.push_async_callback(self.configuration.close)
            await self._server.start()
            await self.configuration.start(system)
            if not self.options.wait_for_rpc:
                await self.start_init()
        except BaseException:
            await self.stop(self.options.shutdown_timeout_s)
            raise

    def _provide(self, system: System) -> None:
        """Hands methods what they may ask for, by type."""
        services: dict[type, object] = {
            System: system,
            Calls: self.rpc,
            Configuration: self.configuration,
            Files: self,
            HealthService: self.health,
            Lifecycle: self,
            Logs: self.logs,
        }
        self.rpc.provide({**services, **{kind: system.exports.of(kind) for kind in EXPORTS}})

    async def _serve_http(self, system: System) -> None:
        """Has HTTP listen before anything runs, so that it serves health from the beginning to the end."""
        options, handed = self.options, self._sockets.get("http")
        if options.http is None and handed is None:
            return
        tokens = tls = None
        if (source := options.http_tokens) is not None:
            tokens = await read_in_thread(partial(Tokens, source), f"read {source}")
        if (files := options.http_tls) is not None:
            tls = await read_in_thread(partial(Tls, files), f"read {files.cert}")
        app = create_app(system, self.rpc, self.health, tokens, options.http_rpc)
        self.http = http = HttpServer(app, *(options.http or ("", 0)), tls=tls, tokens=tokens, listener=handed)
        await http.start()
        self.configuration.also_read.append(http.reload)
        self._stack.push_async_callback(http.stop)

    async def start_init(self) -> None:
        """Goes from startup to runtime. If that fails the daemon can't be used, and asks to be stopped."""
        if self._starting:
            raise Busy("initialisation has begun already")
        self._starting = True
        try:
            self.system.start()
            for exports in self.system.exports:
                await exports.start(self.options.listen(exports.kind), self._sockets.get(exports.kind))
            self.rpc.state = State.RUNTIME
            await self.configuration.resume()
        except Exception as error:
            self.fatal = error
            self.wants_to_stop.set()
            raise
        self._initialised.set()
        pollers = self.system.pollers
        cores = ", ".join(str(poller.cpu) for poller in pollers)
        on = "core" if len(pollers) == 1 else "cores"
        logger.info("running: %s on %s %s", counted(len(pollers), "poller"), on, cores)

    async def wait_init(self) -> None:
        """Returns when the daemon is in runtime."""
        await self._initialised.wait()

    def beside_socket(self, name: str) -> str:
        """The path of a file beside the RPC socket."""
        return f"{self._server.path.removesuffix('.sock')}-{name}"

    # ---- end

    def time_left(self) -> float:
        """Seconds that a stop may still take."""
        return max(0.0, self._stop_deadline - time.monotonic())

    def hurry(self) -> None:
        """Ends the waiting of stop(): it cancels what has not ended."""
        self._hurry.set()

    async def stop(self, deadline_s: float) -> None:
        """Ends everything, in the reverse order of its start. Raises DeadlineError when something hangs."""
        self._stop_deadline = time.monotonic() + deadline_s
        self.rpc.close()
        unwinding = spawn(self._unwind(), "stop virtiod", awaited=True)
        hurrying = spawn(self._hurry.wait(), "wait for a second signal")
        await asyncio.wait({unwinding, hurrying}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        await cancel(hurrying)
        if not unwinding.done():
            self._stop_deadline = 0.0
            if self.inventory is not None:
                self.inventory.controllers.cut_off()
            await _skip_through(unwinding)
            await self._server.close()
            why = "a second signal came" if self._hurry.is_set() else f"not within {deadline_s:g} s"
            raise DeadlineError(f"the daemon did not end in order: {why}")
        await unwinding

    async def _unwind(self) -> None:
        try:
            await self.rpc.stop(min(_CALLS_TIMEOUT_S, self.time_left()))
            await self._server.disconnect()
        finally:
            await self._stack.aclose()


async def _skip_through(unwinding: asyncio.Task[None]) -> None:
    """Cancels what the stop waits for, step after step, so that the steps after each still run."""
    deadline = time.monotonic() + _SKIP_TIMEOUT_S
    while not unwinding.done() and time.monotonic() < deadline:
        unwinding.cancel()
        await asyncio.wait({unwinding}, timeout=_SKIP_STEP_S)
