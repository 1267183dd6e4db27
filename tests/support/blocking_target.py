"""A target that fills the eventfd by which it is kicked, and makes it block.

python -m tests.support.blocking_target SOCKET OPTION...
"""

from __future__ import annotations

import os
import sys

from virtiod.cli import main
from virtiod.target.session import Session
from virtiod.transports.vhost_user.wire import Request

FULL = 2**64 - 2  # to which nothing can be added

_take = Session._take_vring_fd
_kept: list[int] = []


def _take_and_block(self: Session, payload: bytes, fds: list[int], request: Request) -> tuple[int, int]:
    """Keeps the eventfd of kicks, and has the device wait for another one, which nobody signals."""
    index, fd = _take(self, payload, fds, request)
    if request is Request.SET_VRING_KICK and fd >= 0:
        _kept.append(fd)
        os.eventfd_write(fd, FULL)
        os.set_blocking(fd, True)
        fd = os.eventfd(0, os.EFD_NONBLOCK)
    return index, fd


if __name__ == "__main__":
    Session._take_vring_fd = _take_and_block  # type: ignore[method-assign]
    sys.exit(main(["target", *sys.argv[1:]]))
