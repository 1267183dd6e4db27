"""What systemd and its services tell each other: notifications (sd_notify(3)) and sockets (sd_listen_fds(3))."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import MutableMapping

from virtiod.core.escape import escaped, shortened
from virtiod.exports.table import EXPORTS

logger = logging.getLogger(__name__)

FIRST_FD = 3
MAX_STATUS = 1024  # characters
# FileDescriptorName= of the sockets that can be handed over
SOCKET_NAMES = ("rpc", "http", *(kind.kind for kind in EXPORTS))


class Notifier:
    """Notifies the service manager. Without one (no NOTIFY_SOCKET) its methods do nothing.

    watchdog_s: the manager ends a service that does not send watchdog() this often; 0 for no limit.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")  # not for processes that this one starts
        watchdog_us, watchdog_pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self.watchdog_s = 0.0
        if watchdog_us.isdecimal() and watchdog_pid in {"", str(os.getpid())}:
            self.watchdog_s = int(watchdog_us) / 1e6
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            self._address = "\0" + address[1:] if address[0] == "@" else address
        self._status = ""

    def __bool__(self) -> bool:
        return self._socket is not None

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """Tells that the daemon reloads, until the next ready()."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """The start or the end that is under way may take so long from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it has changed."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + escaped(shortened(text, MAX_STATUS)))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError as error:  # the manager is gone or busy: it is told again soon
            logger.debug("NOTIFY_SOCKET: %s", error)


def take_sockets(environment: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """The listening sockets that were handed over, by name; once. Those of names that mean nothing are closed."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    taken: dict[str, socket.socket] = {}
    if pid != str(os.getpid()) or not count.isdecimal():
        return taken
    for fd, name in zip(range(FIRST_FD, FIRST_FD + int(count)), names, strict=False):
        try:
            handed = socket.socket(fileno=fd)
        except OSError as error:
            logger.warning("file descriptor %d (%s) from systemd is not used: %s", fd, name, error.strerror)
            continue
        if name not in SOCKET_NAMES or name in taken or not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            expected = ", ".join(SOCKET_NAMES)
            logger.warning(
                "socket %d (%s) from systemd is not used: virtiod takes one listening %s of each name",
                fd,
                name,
                expected,
            )
            handed.close()
            continue
        handed.setblocking(False)
        handed.set_inheritable(False)
        taken[name] = handed
    return taken


def is_journal(fd: int, environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether what is written to fd goes to the journal (JOURNAL_STREAM of systemd.exec(5))."""
    with contextlib.suppress(OSError, ValueError):
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) == (device, inode)
    return False
