"""TCP ports for servers that can't be told to take any: from a range where the kernel gives none to others."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 10_000, 32_000  # below those that the kernel gives to who asks for any (ip_local_port_range)
EACH = 100  # ports of a process: those that run tests side by side begin at different ones

_next = itertools.count()


def free_port() -> int:
    """One that nobody has, and that no other test of this process was given lately."""
    begin = FIRST + os.getpid() * EACH % (LAST - FIRST)
    for number in _next:
        port = begin + number % EACH
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the numbers do not end")
