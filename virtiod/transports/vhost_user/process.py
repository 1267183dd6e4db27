"""The process at the other end of a Unix socket: whether it still runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from virtiod.transports.epoch import Peer

SO_PEERPIDFD = 77  # <asm-generic/socket.h>, Linux 6.5
_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid
_STARTED = 19  # of what follows the command in /proc/PID/stat: field 22, proc(5)
INIT = 1  # listens for services that it starts; it is never the device itself


class PeerProcess:
    """The process that listened on a connected socket. Owns a pidfd until close()."""

    def __init__(self, peer: Peer, pidfd: int) -> None:
        self.peer = peer
        self.pid = peer.pid
        self._pidfd = pidfd
        self._watching = False

    @property
    def ended(self) -> bool:
        return _ended(self._pidfd)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have callback() called when it has ended; until close()."""
        asyncio.get_running_loop().add_reader(self._pidfd, callback)
        self._watching = True

    def close(self) -> None:
        """Idempotent."""
        if self._pidfd < 0:
            return
        if self._watching:
            asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    def __str__(self) -> str:
        name = ""
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{self.pid}/comm").read_text().strip()
        return f"process {self.pid} ({name})" if name else f"process {self.pid}"


def _ended(pidfd: int) -> bool:
    """pidfd_open(2): readable when the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def peer_process(sock: socket.socket) -> PeerProcess | None:
    """Who listened on a socket that was just connected; None where that can't be seen.

    It can't in another PID namespace, and where another process listened than serves: the service manager, or a parent
    that has ended. This process itself says nothing either.
    """
    try:
        pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if pid in {0, INIT, os.getpid()}:
            return None
        pidfd = _open(sock, pid)
    except OSError:
        return None
    try:
        peer = Peer(pid, _start_time(pid))
    except OSError:
        os.close(pidfd)
        return None
    if _ended(pidfd):
        os.close(pidfd)
        return None
    return PeerProcess(peer, pidfd)


def _start_time(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[_STARTED])


def _open(sock: socket.socket, pid: int) -> int:
    """By the socket, whose process can't be taken for another one that got its number; else by the number."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return os.pidfd_open(pid)
