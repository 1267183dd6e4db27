"""The daemon's health: for /healthz, for the watchdog, and in one line for people."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from virtiod.config.configuration import Configuration
from virtiod.core.counted import counted
from virtiod.core.ticks import now_ns
from virtiod.daemon.logs import LogControl
from virtiod.system import System

HEARTBEAT_S = 5.0  # a poller completes a round each second even when it sleeps


class Process(Protocol):
    """What health is read from."""

    @property
    def stopping(self) -> bool: ...

    @property
    def running(self) -> bool:
        """Whether its initialisation has ended."""

    @property
    def configuration(self) -> Configuration: ...

    @property
    def inventory(self) -> System | None:
        """The system; None while it is not built."""

    @property
    def logs(self) -> LogControl: ...


class Health:
    """The health of one daemon."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def problem(self) -> str:
        """What is wrong with it; "" for nothing."""
        if self._process.stopping:
            return "stopping"
        if not self._process.running:
            return "not initialised"
        return self.stuck_poller()

    def stuck_poller(self, limit_s: float = HEARTBEAT_S) -> str:
        """A poller that was started and has not completed a round for limit_s, as a phrase; "" for none."""
        system = self._process.inventory
        now = now_ns()
        for poller in system.pollers if system else ():
            heartbeat = poller.stats().heartbeat_ns
            age_s = (now - heartbeat) / 1e9
            if heartbeat and age_s > limit_s:
                return f"{poller.name} has not completed a round for {age_s:.1f} s"
        return ""

    def unsaved(self) -> str:
        """Why the state file does not have the state; "" when it has, or when there is none."""
        return self._process.configuration.unsaved

    def dropped_messages(self) -> int:
        """How many messages of the log were dropped, as nobody read it, or it could not be written."""
        return self._process.logs.dropped

    def status(self) -> str:
        """One line, such as "2 controllers up, 1 reconnecting; 3 bdevs, 1 export"."""
        if self._process.stopping:
            return "stopping"
        system = self._process.inventory
        if system is None:
            return "starting"
        states = Counter(str(controller.shown_state) for controller in system.controllers.list())
        up = states.pop("up", 0)
        others = (f"{number} {state}" for state, number in states.items())
        controllers = ", ".join([f"{counted(up, 'controller')} up", *others])
        bdevs, exports = len(system.bdevs.list()), len(system.exports.list())
        text = f"{controllers}; {counted(bdevs, 'bdev')}, {counted(exports, 'export')}"
        configuration = self._process.configuration
        if configuration.waiting:
            text += f"; {counted(configuration.waiting, 'call')} waiting for a bdev"
        if configuration.failed:
            text += f"; {len(configuration.failed)} of the configuration failed: {configuration.failed[0]}"
        if configuration.unsaved:
            text += f"; not saved: {configuration.unsaved}"
        if self._process.logs.dropping:
            text += (
                f"; the log is not read, or its disk is full: {counted(self._process.logs.dropped, 'message')} dropped"
            )
        return text if self._process.running else f"starting: {text}"
