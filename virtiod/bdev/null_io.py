"""A null device: every I/O succeeds in the next round, and a read gives zeroes. It serves to measure the code above it.

The buffer of a read may hold what another client left there. A load, which shows nobody what it reads, says so, and its
buffers are not cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core.types import ChannelPtr, IoFlag, IoPtr, Op
from cython.cimports.virtiod.poller import rounds

if TYPE_CHECKING:
    from virtiod.bdev.channel import BdevChannels


def _submit(ch: ChannelPtr, io: IoPtr) -> None:
    i: uint32_t
    if io.op == Op.READ and not io.flags & IoFlag.UNSEEN:
        for i in range(io.iovcnt):
            memset(io.iov[i].iov_base, 0, io.iov[i].iov_len)
    rounds.defer(ch.poller, io, 0)


def connect_null(channels: BdevChannels) -> None:
    """Connects every channel of a bdev to a null device."""
    i: cython.int
    for i in range(channels.count):
        channels.connect(i, _submit, NULL)
