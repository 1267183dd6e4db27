"""NBD's transmission phase on a poller: requests from a socket to a bdev's channel, and replies back.

A round costs a busy connection one recv, which takes as many requests as have come, and one sendmsg, which carries all
replies that became ready. Data goes straight between the socket and DMA buffers; only the part of a payload that comes
with its header is copied. What a connection may use is bounded: SLOTS requests, HELD_MAX bytes of buffers. When that is
used up it stops reading until replies are sent, so a client that does not read holds up only itself.

receive.py and send.py are the two directions, slots.py is what requests hold; this is the control plane's side.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import int64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, strncpy
from cython.cimports.posix.unistd import close
from cython.cimports.virtiod.bdev import kept
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import CharPtr, CommandPtr, IovPtr, Op, PollerPtr, VoidPtr, command_fn, iovec
from cython.cimports.virtiod.exports.nbd import receive, send, slots, state
from cython.cimports.virtiod.exports.nbd.request import MAX_PAYLOAD
from cython.cimports.virtiod.exports.nbd.state import (
    Conn,
    ConnPtr,
    End,
    IovArray,
    Share,
    Slot,
    SlotArray,
    SlotPtr,
    State,
)
from cython.cimports.virtiod.poller import buffers, rounds
from cython.cimports.virtiod.poller.buffers import PollerBuffers
from cython.cimports.virtiod.poller.poller import Poller

from virtiod.exports.interface import ExportCounters

END_REASONS = (
    "disconnected",
    "closed its connection",
    "connection lost",
    "sent an invalid request",
    "the export ended",
    "cut off",
    "cut off: it held buffers that other clients waited for",
    "the poller has too many sources",
)

# ---- commands ------------------------------------------------------------------------------------


def _cmd_start(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cast(ConnPtr, cmd.ctx)
    if rounds.add_source(p, address(c.source)) < 0:
        close(c.fd)
        c.fd = -1
        c.end = End.START
        c.state = State.GONE
        rounds.post(p.control, address(c.ended))
    return 0


def _cmd_stop(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    c: ConnPtr = cast(ConnPtr, cmd.ctx)
    c.stopping = 1
    if c.state != State.GONE:
        slots.leave_queue(c)  # its requests need no buffers any more
    return 0


def _cmd_abort(p: PollerPtr, cmd: CommandPtr) -> int64_t:
    send.die(cast(ConnPtr, cmd.ctx), End.ABORTED)
    return 0


# ---- control plane -------------------------------------------------------------------------------


class NbdPoller:
    """What the connections of one poller share."""

    share: Share

    def __init__(self, poller: Poller, buffers: PollerBuffers) -> None:
        self.poller = poller
        self.buffers = buffers
        self.share.pool = address(buffers.pool)
        self.connections = 0

    @property
    def max_payload(self) -> int:
        """The most bytes of a READ or WRITE that the buffers allow."""
        return min(MAX_PAYLOAD, int(self.buffers.pool.n_large) * buffers.LARGE)


class NbdConnection:
    """A connection in transmission. It lives until on_end(reason) is called on the event loop.

    fd is a non-blocking stream socket, owned from start() on; leftover has the bytes that came after the negotiation;
    flags has the transmission flags that the client was told.
    """

    def __cinit__(self) -> None:
        i: cython.int
        self.c = cast(ConnPtr, calloc(1, sizeof(Conn)))
        if self.c == NULL:
            raise MemoryError
        self.c.fd = -1
        self.c.buffer = cast(CharPtr, calloc(1, state.RECEIVE_SIZE))
        self.c.slots = cast(SlotPtr, calloc(state.SLOTS, sizeof(Slot)))
        self.c.free = cast(SlotArray, calloc(state.SLOTS, sizeof(SlotPtr)))
        self.c.large = cast(IovArray, calloc(state.LARGE_REQUESTS, sizeof(IovPtr)))
        if not (self.c.buffer and self.c.slots and self.c.free and self.c.large):
            raise MemoryError
        for i in range(state.SLOTS):
            self.c.slots[i].conn = self.c
            self.c.free[i] = address(self.c.slots[state.SLOTS - 1 - i])
        for i in range(state.LARGE_REQUESTS):
            self.c.large[i] = cast(IovPtr, calloc(state.MANY_SEGMENTS, sizeof(iovec)))
            if self.c.large[i] == NULL:
                raise MemoryError
        self.c.n_free = state.SLOTS
        self.c.n_large = state.LARGE_REQUESTS

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
        if len(leftover) > state.RECEIVE_SIZE:
            raise ValueError(f"leftover of {len(leftover)} bytes")
        c: ConnPtr = self.c
        self.home = home
        self.channels = channels
        self.on_end = on_end
        c.channel = channels.channel(home.poller)
        c.share = address(home.share)
        c.hands_over = kept.takes_over(c.channel, c.share.pool)
        c.losses_seen = atomics.load_u64(address(c.channel.bdev.losses))
        c.limits.max_payload = home.max_payload
        c.limits.block_size = c.channel.bdev.block_size
        c.limits.flags = flags
        c.limits.structured = structured
        c.limits.fast_zero = (c.channel.bdev.native >> Op.WRITE_ZEROES) & 1
        memcpy(c.buffer, cast(CharPtr, leftover), len(leftover))
        c.tail = len(leftover)
        c.paused = 1  # what is left over is looked at in the first round
        c.source.poll = receive.poll
        c.source.flush = send.flush
        c.source.arm = receive.arm
        c.source.tick = receive.tick
        c.source.watched = 1
        source_name: bytes = f"nbd_{name}".encode("ascii", "replace")
        strncpy(c.source.name, source_name, 39)
        c.source.fd = fd

    def start(self) -> None:
        """Has the poller serve it."""
        self.c.fd = self.c.source.fd
        self.home.connections += 1
        self.home.poller.control.expect(address(self.c.ended), self._ended)
        self.home.poller.own(address(self.c.source), self)
        self._command(_cmd_start)

    def _command(self, fn: command_fn) -> object:
        return self.home.poller.command(fn, cast(VoidPtr, self.c), 0, 0, NULL, self)

    @property
    def poller_name(self) -> str:
        return self.home.poller.name

    def stop(self) -> None:
        """Takes no more requests, answers those in flight, closes. Ends at once when there are none."""
        self._command(_cmd_stop)

    def abort(self) -> None:
        """Closes the socket now. Ends when the I/Os in flight are done."""
        self._command(_cmd_abort)

    def counters(self) -> ExportCounters:
        return ExportCounters(
            atomics.relaxed_u64(address(self.c.requests)),
            atomics.relaxed_u64(address(self.c.errors)),
            atomics.relaxed_u64(address(self.c.received)),
            atomics.relaxed_u64(address(self.c.sent)),
            atomics.relaxed_u64(address(self.c.in_flight)),
        )

    def _ended(self) -> None:
        self.home.connections -= 1
        self.home.poller.disown(address(self.c.source))
        self.on_end(END_REASONS[self.c.end])

    def __dealloc__(self) -> None:
        i: cython.int
        if self.c == NULL:
            return
        if self.c.fd >= 0:
            os.close(self.c.fd)
        if self.c.large != NULL:
            for i in range(state.LARGE_REQUESTS):
                free(self.c.large[i])
        free(self.c.large)
        free(self.c.free)
        free(self.c.slots)
        free(self.c.buffer)
        free(self.c)
