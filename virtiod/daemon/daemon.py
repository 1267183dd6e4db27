"""The daemon: starts its parts, serves RPC, ends in order.

States: stopped -> startup (RPC answers, nothing else runs) -> runtime -> stopped. A start that fails leaves nothing
behind. Stopping goes backwards: RPC takes no more calls, exports end, controllers are detached, pollers stop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

from virtiod import __version__
from virtiod.api.registry import State
from virtiod.bdev.iostat import IoStats
from virtiod.bdev.notifications import Notifications
from virtiod.config.configuration import Configuration
from virtiod.config.saved import Settings
from virtiod.core.errors import Busy, DeadlineError
from virtiod.daemon.logs import LogControl
from virtiod.daemon.options import Options, describe
from virtiod.daemon.parts import Parts
from virtiod.rpc.methods import METHODS
from virtiod.rpc.methods.histogram import Histograms
from virtiod.rpc.protocol.dispatcher import Dispatcher
from virtiod.rpc.protocol.server import RpcServer
from virtiod.rpc.protocol.timing import Timings

logger = logging.getLogger(__name__)

_CALLS_TIMEOUT_S = 2.0  # for RPC calls that run when the daemon stops
_SKIP_TIMEOUT_S = 1.0  # for what is left when the deadline is over
_SKIP_STEP_S = 0.2  # for each thing of it


class Daemon:
    """One virtiod. start() once, then stop().

    sockets: taken over from a service manager.

    memory, pollers, buffers, bdevs, controllers, hotplug, exports and perf are set by the parts when they are built.
    """

    def __init__(
        self, options: Options, parts: Parts | None = None, sockets: dict[str, socket.socket] | None = None
    ) -> None:
        self.options = options
        self.sockets = sockets or {}  # that listen already: "rpc", "http", "nbd"
        self.memory: Any = None
        self.pollers: list[Any] = []
        self.buffers: list[Any] = []  # of each poller
        self.bdevs: Any = None
        self.controllers: Any = None
        self.hotplug: Any = None
        self.exports: Any = None
        self.perf: Any = None
        self.nulls: Any = None
        self.settings = Settings()
        self.notifications = Notifications()
        self.iostats = IoStats()
        self.histograms = Histograms()
        self.logs = LogControl(options.log_level, options.log_format)
        self.rpc = Dispatcher(self, METHODS, options.rpcs_allowed)
        self.configuration = Configuration(self, options.config, options.state)
        self.rpc_timings = Timings()
        self.rpc.observers.append(self.rpc_timings.add)
        self.started_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.initialised = asyncio.Event()
        self.stop_deadline = float("inf")  # of time.monotonic()
        self.fatal: Exception | None = None  # why it ends by itself
        self.wants_to_stop = asyncio.Event()
        self._parts = parts or Parts()
        self._server = RpcServer(
            options.rpc_socket, self.rpc, group=options.rpc_group, listener=self.sockets.get("rpc")
        )
        self._stack = AsyncExitStack()
        self._starting = False
        self._hurry = asyncio.Event()

    async def start(self) -> None:
        """Comes up as far as the options say. Raises VirtiodError, and leaves nothing behind then."""
        self._stack.callback(self.logs.close)
        logger.info("virtiod %s, options %s", __version__, describe(self.options))
        try:
            await self.configuration.read()
            self._server.claim()
            self._stack.push_async_callback(self._server.close)
            await self._parts.build(self, self._stack)
            self.bdevs.on_event(self.notifications.add)
            self._stack.push_async_callback(self.configuration.close)
            await self._server.start()
            await self.configuration.start()
            if not self.options.wait_for_rpc:
                await self.start_init()
        except BaseException:
            await self.stop(self.options.shutdown_timeout_s)
            raise

    async def start_init(self) -> None:
        """Goes from startup to runtime. If that fails the daemon can't be used, and asks to be stopped."""
        if self._starting:
            raise Busy("initialisation has begun already")
        self._starting = True
        try:
            await self._parts.open(self, self._stack)
            self.rpc.state = State.RUNTIME
            await self.configuration.go_on()
        except Exception as error:
            self.fatal = error
            self.wants_to_stop.set()
            raise
        self.initialised.set()
        logger.info("running: %d pollers on cores %s", len(self.pollers), [p.cpu for p in self.pollers])

    def time_left(self) -> float:
        """Seconds that what ends may still take."""
        return max(0.0, self.stop_deadline - time.monotonic())

    def hurry(self) -> None:
        """Has stop() wait no longer."""
        self._hurry.set()

    async def stop(self, deadline_s: float) -> None:
        """Ends everything, in the reverse order of its start. Raises DeadlineError when something hangs."""
        self.stop_deadline = time.monotonic() + deadline_s
        self.rpc.close()
        unwinding = asyncio.create_task(self._unwind(), name="stop virtiod")
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({unwinding, hurrying}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not unwinding.done():
            self.stop_deadline = 0.0
            if self.controllers is not None:
                self.controllers.cut_off()
            await _skip_through(unwinding)
            await self._server.close()
            why = "it was told to hurry" if self._hurry.is_set() else f"not within {deadline_s:g} s"
            raise DeadlineError(f"the daemon did not end in order: {why}")
        await unwinding

    async def _unwind(self) -> None:
        try:
            await self.rpc.stop(min(_CALLS_TIMEOUT_S, self.time_left()))
            await self._server.disconnect()
        finally:
            await self._stack.aclose()


async def _skip_through(unwinding: asyncio.Task[None]) -> None:
    """Have it give up what it waits for, thing after thing: what comes after each still gets its turn."""
    deadline = time.monotonic() + _SKIP_TIMEOUT_S
    while not unwinding.done() and time.monotonic() < deadline:
        unwinding.cancel()
        await asyncio.wait({unwinding}, timeout=_SKIP_STEP_S)
