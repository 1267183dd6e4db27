"""Run the daemon."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
from pathlib import Path

from rpc_client.places import own_socket
from virtiod.core.errors import InvalidArgument, VirtiodError
from virtiod.core.fatal import bound_last_words
from virtiod.core.tasks import keep_going, spawn
from virtiod.daemon.daemon import Daemon
from virtiod.daemon.logs import LogControl, log_what_python_prints
from virtiod.daemon.options import DEFAULT_RPC_SOCKET, add_arguments, options_from
from virtiod.daemon.service import Service
from virtiod.daemon.stacks import log_stacks_when_asked
from virtiod.daemon.systemd import Notifier, take_sockets

__all__ = ["add_arguments", "run"]

LAST_WORDS_S = 5  # for the stacks of a process that a signal ends
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Runs until a signal; 0 after an orderly end."""
    if args.rpc_socket == DEFAULT_RPC_SOCKET:
        args.rpc_socket = _default_socket()
    options = options_from(args)
    logs = LogControl(options.log_level, options.log_format)
    try:
        log_what_python_prints()
        bound_last_words(LAST_WORDS_S)
        log_stacks_when_asked(logs.log_stacks)
        return asyncio.run(_serve(Daemon(options, take_sockets(), logs=logs), Notifier()))
    except VirtiodError:
        raise
    except Exception:
        logger.exception("virtiod failed")
        return 1
    finally:
        logs.close()


def _default_socket() -> str:
    """The system's socket, or the user's own for one who may not make that. Makes its directory."""
    why = _make_folder(Path(DEFAULT_RPC_SOCKET).parent, 0o755)
    if not why:
        return DEFAULT_RPC_SOCKET
    own = own_socket()
    if own and not _make_folder(Path(own).parent, 0o700):
        return own
    raise InvalidArgument(
        f"{why}: this user may not run the system's virtiod. Give -r PATH, in a directory of your own, or set "
        "XDG_RUNTIME_DIR to one; or run virtiod as root"
    )


def _make_folder(folder: Path, mode: int) -> str:
    """Makes a directory for sockets, if there is none; returns why none can be made there, or ""."""
    try:
        folder.mkdir(mode=mode, exist_ok=True)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: {os.strerror(errno.EACCES)}"


async def _serve(daemon: Daemon, notifier: Notifier) -> int:
    """Runs the daemon, notifies the service manager, and handles signals."""
    service = Service(daemon, notifier)
    telling = spawn(keep_going(service.run, "telling the service manager"), "tell the service manager")
    _hear_signals(daemon, service)
    try:
        return await _run(daemon, service)
    finally:
        telling.cancel()
        notifier.close()


def _hear_signals(daemon: Daemon, service: Service) -> None:
    loop = asyncio.get_running_loop()
    stops: list[int] = []

    def on_stop(number: int) -> None:
        stops.append(number)
        if len(stops) == 1:
            logger.info("%s: stopping", signal.Signals(number).name)
            daemon.wants_to_stop.set()
        else:
            logger.warning("%s again: stopping now", signal.Signals(number).name)
            daemon.hurry()

    def on_reload() -> None:
        if not stops:
            spawn(service.reload(), "reload")

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_stop, number)
    loop.add_signal_handler(signal.SIGHUP, on_reload)


async def _run(daemon: Daemon, service: Service) -> int:
    starting = spawn(daemon.start(), "start virtiod", awaited=True)
    stop_asked = spawn(daemon.wants_to_stop.wait(), "wait for a signal")
    await asyncio.wait({starting, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and daemon.fatal is None:
        service.stopping()
        starting.cancel()  # which stops what has come up
        await asyncio.wait({starting})
        return 1
    await asyncio.wait({starting})  # at most until what has come up is stopped: its start failed
    if starting.exception() is not None:
        stop_asked.cancel()
        await starting
    service.tell()
    await stop_asked
    service.stopping()
    try:
        await daemon.stop(daemon.options.shutdown_timeout_s)
    except VirtiodError as error:
        logger.error("%s", error)
        daemon.logs.close()
        os._exit(1)  # something hangs: nothing that waits for it may hold us up
    if daemon.fatal is not None:
        raise daemon.fatal
    return 0
