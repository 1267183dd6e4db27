"""A null device: every I/O succeeds in the next round and moves no data. It serves to measure the code above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL
from cython.cimports.virtiod.core.types import ChannelPtr, IoPtr
from cython.cimports.virtiod.poller import rounds

if TYPE_CHECKING:
    from virtiod.bdev.channel import BdevChannels


def _submit(ch: ChannelPtr, io: IoPtr) -> None:
    rounds.defer(ch.poller, io, 0)


def connect_null(channels: BdevChannels) -> None:
    """Connects every channel of a bdev to a null device."""
    i: cython.int
    for i in range(channels.count):
        channels.connect(i, _submit, NULL)
