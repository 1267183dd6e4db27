"""NBD's transmission phase on a poller: requests from a socket to a bdev's channel, and replies back.

A round costs a busy connection one recv, which takes as many requests as have come, and one sendmsg, which carries all
replies that became ready. Data goes straight between the socket and DMA buffers; only the part of a payload that comes
with its header is copied. What a connection may use is bounded: SLOTS requests, HELD_MAX bytes of buffers. When that is
used up it stops reading until replies are sent, so a client that does not read holds up only itself.

nbd_receive.py and nbd_send.py are the two directions, nbd_buffers.py is what requests hold; here is the control plane's
side.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import cython
from cython.cimports.libc.stdint import int64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, strncpy
from cython.cimports.posix.unistd import close
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.core.atomics import vd_relaxed_u64
from cython.cimports.virtiod.core.types import (
    OP_WRITE_ZEROES,
    CharPtr,
    CommandPtr,
    IovPtr,
    PollerPtr,
    VoidPtr,
    command_fn,
    iovec,
)
from cython.cimports.virtiod.exports.nbd.buffers import nbd_leave_queue
from cython.cimports.virtiod.exports.nbd.receive import nbd_arm, nbd_poll, nbd_tick
from cython.cimports.virtiod.exports.nbd.send import nbd_die, nbd_flush
from cython.cimports.virtiod.exports.nbd.state import (
    END_ABORTED,
    END_START,
    GONE,
    LARGE_REQUESTS,
    MANY_SEGMENTS,
    RECEIVE_SIZE,
    SLOTS,
    ConnPtr,
    IovArray,
    NbdConn,
    NbdShare,
    NbdSlot,
    NbdSlotArray,
    NbdSlotPtr,
)
from cython.cimports.virtiod.poller.buffers import LARGE_BUFFER, PollerBuffers
from cython.cimports.virtiod.poller.poller import Poller
from cython.cimports.virtiod.poller.rounds import mailbox_push, poller_add_source

from virtiod.exports.interface import ExportCounters

MAX_PAYLOAD = 32 << 20  # "Size constraints": what a client may send without asking
END_REASONS = (
    "disconnected",
    "closed its connection",
    "connection lost",
    "sent what is no request",
    "the export ended",
    "cut off",
    "cut off: it held buffers that others waited for",
    "the poller has too many sources",
)

# ---- commands ------------------------------------------------------------------------------------


def _cmd_start(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cython.cast(ConnPtr, cmd.ctx)
    if poller_add_source(p, cython.address(c.source)) < 0:
        close(c.fd)
        c.fd = -1
        c.end = END_START
        c.state = GONE
        mailbox_push(p.control, cython.address(c.ended))
    return 0


def _cmd_stop(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cython.cast(ConnPtr, cmd.ctx)
    c.stopping = 1
    if c.state != GONE:
        nbd_leave_queue(c)  # its requests need no buffers any more
    return 0


def _cmd_abort(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    nbd_die(cython.cast(ConnPtr, cmd.ctx), END_ABORTED)
    return 0


# ---- control plane -------------------------------------------------------------------------------


class NbdPoller:
    """What the connections of one poller share."""

    share: NbdShare

    def __init__(self, poller: Poller, buffers: PollerBuffers) -> None:
        self.poller = poller
        self.buffers = buffers
        self.share.pool = cython.address(buffers.pool)
        self.connections = 0

    @property
    def max_payload(self) -> int:
        """Bytes of the longest READ and WRITE that the buffers allow."""
        return min(MAX_PAYLOAD, int(self.buffers.pool.n_large) * LARGE_BUFFER)


class NbdConnection:
    """A connection in transmission. It lives until on_end(reason) is called on the event loop.

    fd is a non-blocking stream socket, owned from start() on; leftover are the bytes that came after the negotiation;
    flags the transmission flags that the client was told.
    """

    def __cinit__(self) -> None:
        i: cython.int
        self.c = cython.cast(ConnPtr, calloc(1, cython.sizeof(NbdConn)))
        if self.c == cython.NULL:
            raise MemoryError
        self.c.fd = -1
        self.c.buffer = cython.cast(CharPtr, calloc(1, RECEIVE_SIZE))
        self.c.slots = cython.cast(NbdSlotPtr, calloc(SLOTS, cython.sizeof(NbdSlot)))
        self.c.free = cython.cast(NbdSlotArray, calloc(SLOTS, cython.sizeof(NbdSlotPtr)))
        self.c.large = cython.cast(IovArray, calloc(LARGE_REQUESTS, cython.sizeof(IovPtr)))
        if not (self.c.buffer and self.c.slots and self.c.free and self.c.large):
            raise MemoryError
        for i in range(SLOTS):
            self.c.slots[i].conn = self.c
            self.c.free[i] = cython.address(self.c.slots[SLOTS - 1 - i])
        for i in range(LARGE_REQUESTS):
            self.c.large[i] = cython.cast(IovPtr, calloc(MANY_SEGMENTS, cython.sizeof(iovec)))
            if self.c.large[i] == cython.NULL:
                raise MemoryError
        self.c.n_free = SLOTS
        self.c.n_large = LARGE_REQUESTS

    def __init__(
        self,
        home: NbdPoller,
        channels: BdevChannels,
        fd: int,
        *,
        name: str,
        flags: int,
        structured: bool,
        leftover: bytes,
        on_end: Callable[[str], None],
    ) -> None:
        if len(leftover) > RECEIVE_SIZE:
            raise ValueError(f"leftover of {len(leftover)} bytes")
        c: ConnPtr = self.c
        self.home = home
        self.channels = channels
        self.on_end = on_end
        c.channel = channels.channel(home.poller)
        c.share = cython.address(home.share)
        c.limits.max_payload = home.max_payload
        c.limits.block_size = c.channel.bdev.block_size
        c.limits.flags = flags
        c.limits.structured = structured
        c.limits.fast_zero = (c.channel.bdev.native >> OP_WRITE_ZEROES) & 1
        memcpy(c.buffer, cython.cast(CharPtr, leftover), len(leftover))
        c.tail = len(leftover)
        c.paused = 1  # what is left over is looked at in the first round
        c.source.poll = nbd_poll
        c.source.flush = nbd_flush
        c.source.arm = nbd_arm
        c.source.tick = nbd_tick
        c.source.watched = 1
        source_name: bytes = f"nbd_{name}".encode("ascii", "replace")
        strncpy(c.source.name, source_name, 39)
        c.source.fd = fd

    def start(self) -> None:
        """Have the poller serve it."""
        self.c.fd = self.c.source.fd
        self.home.connections += 1
        self.home.poller.control.expect(cython.address(self.c.ended), self._ended)
        self.home.poller.own(cython.address(self.c.source), self)
        self._command(_cmd_start)

    def _command(self, fn: command_fn) -> object:
        return self.home.poller.command(fn, cython.cast(VoidPtr, self.c), 0, 0, cython.NULL, self)

    @property
    def poller_name(self) -> str:
        return self.home.poller.name

    def stop(self) -> None:
        """Take no more requests, answer those in flight, close. Ends at once when there are none."""
        self._command(_cmd_stop)

    def abort(self) -> None:
        """Close the socket now. Ends when the I/Os in flight are done."""
        self._command(_cmd_abort)

    def counters(self) -> ExportCounters:
        return ExportCounters(
            vd_relaxed_u64(cython.address(self.c.requests)),
            vd_relaxed_u64(cython.address(self.c.errors)),
            vd_relaxed_u64(cython.address(self.c.received)),
            vd_relaxed_u64(cython.address(self.c.sent)),
            vd_relaxed_u64(cython.address(self.c.in_flight)),
        )

    def _ended(self) -> None:
        self.home.connections -= 1
        self.home.poller.disown(cython.address(self.c.source))
        self.on_end(END_REASONS[self.c.end])

    def __dealloc__(self) -> None:
        i: cython.int
        if self.c == cython.NULL:
            return
        if self.c.fd >= 0:
            os.close(self.c.fd)
        if self.c.large != cython.NULL:
            for i in range(LARGE_REQUESTS):
                free(self.c.large[i])
        free(self.c.large)
        free(self.c.free)
        free(self.c.slots)
        free(self.c.buffer)
        free(self.c)
