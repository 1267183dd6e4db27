"""Run the daemon."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
from pathlib import Path

from virtiod.daemon import Daemon
from virtiod.errors import VirtiodError
from virtiod.options import DEFAULT_RPC_SOCKET, add_arguments, options_from

__all__ = ["add_arguments", "run"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Runs until a signal; 0 after an orderly end."""
    options = options_from(args)
    if options.rpc_socket == DEFAULT_RPC_SOCKET:
        Path(DEFAULT_RPC_SOCKET).parent.mkdir(mode=0o755, exist_ok=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    return asyncio.run(_serve(Daemon(options)))


async def _serve(daemon: Daemon) -> int:
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()
    assert serving is not None
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) == 1:
            logger.info("%s: stopping", signal.Signals(number).name)
            daemon.wants_to_stop.set()
        else:
            logger.warning("%s again: stopping now", signal.Signals(number).name)
            daemon.hurry()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    starting = asyncio.create_task(daemon.start())
    stop_asked = asyncio.create_task(daemon.wants_to_stop.wait())
    await asyncio.wait({starting, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and daemon.fatal is None:
        starting.cancel()  # which stops what has come up
        await asyncio.wait({starting})
        return 1
    await asyncio.wait({starting})  # at most until what has come up is stopped: its start failed
    if starting.exception() is not None:
        stop_asked.cancel()
        await starting
    await stop_asked
    try:
        await daemon.stop(daemon.options.shutdown_timeout_s)
    except VirtiodError as error:
        logger.error("%s", error)
        os._exit(1)  # something hangs: nothing that waits for it may hold us up
    if daemon.fatal is not None:
        raise daemon.fatal
    return 0
