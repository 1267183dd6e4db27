"""Single I/Os to a bdev, and single rounds of a poller that has no thread, for tests."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.bdev import channel
from cython.cimports.virtiod.bdev.probe import MAX_SEGMENTS, ProbeIo, ProbeIoPtr
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import COMMAND_LATER, CommandPtr, IoFlag, IoPtr, PollerPtr, VoidPtr, iovec
from cython.cimports.virtiod.poller import buffers, rounds

from virtiod.bdev.channel import OPS, BdevChannels, Holdings
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Poller

if TYPE_CHECKING:
    import asyncio

    from virtiod.core.memory import DmaMemory


class Flag(enum.IntFlag):
    """Flags of Probe.submit()."""

    FUA = IoFlag.FUA
    NO_HOLE = IoFlag.NO_HOLE
    UNSEEN = IoFlag.UNSEEN


def _done(io: IoPtr) -> None:
    rounds.answer(cast(ProbeIoPtr, io).command, io.status)


def _cmd_submit(p: PollerPtr, c: CommandPtr) -> int64_t:
    i: ProbeIoPtr = cast(ProbeIoPtr, c.ctx)
    i.command = c
    channel.submit(i.channel, address(i.io))
    return COMMAND_LATER


class Ticket:
    """Owns an I/O until it is answered."""

    io: ProbeIoPtr

    def __cinit__(self) -> None:
        self.io = cast(ProbeIoPtr, calloc(1, sizeof(ProbeIo)))
        if self.io == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        free(self.io)


class Probe:
    """Submits I/Os one by one from a poller; their data is in `buffer`, size bytes."""

    poller: Poller
    channels: BdevChannels
    memory: DmaMemory
    address: uint64_t
    losses_seen: uint64_t
    size: int

    def __init__(self, memory: DmaMemory, poller: Poller, channels: BdevChannels, size: int = 1 << 20) -> None:
        self.memory = memory
        self.poller = poller
        self.channels = channels
        self.size = size
        self.losses_seen = atomics.load_u64(address(channels.core.losses))
        self.address = memory.allocate(size)

    @property
    def buffer(self) -> memoryview:
        """The data of all I/Os: write it before a write, read it after a read."""
        return self.memory.view(self.address, self.size)

    def submit(
        self,
        op: str,
        offset: int,
        length: int,
        flags: int = 0,
        segments: list[int] | None = None,
        at: int = 0,
    ) -> asyncio.Future[int]:
        """Starts an I/O of length bytes at offset; returns a future of its status, 0 or -errno.

        Its data begins at byte `at` of the buffer. segments: the lengths (bytes) of the pieces of memory that the
        data is in, one directly after the other. flags: of Flag.
        """
        n: cython.int
        where: uint64_t = self.address + at
        ticket: Ticket = Ticket()
        pieces: list[int] = [length] if segments is None else segments
        if len(pieces) > MAX_SEGMENTS or sum(pieces) != length or at + length > self.size:
            if op in {"read", "write"}:
                raise ValueError(f"{length} bytes at {at} in segments {pieces}: the buffer has {self.size}")
            pieces = []
        for n, piece in enumerate(pieces):
            ticket.io.iov[n].iov_base = cast(VoidPtr, where)
            ticket.io.iov[n].iov_len = piece
            where += piece
        ticket.io.io.iov = address(ticket.io.iov[0])
        ticket.io.io.iovcnt = cast(uint32_t, len(pieces))
        ticket.io.io.op = OPS.index(op)
        ticket.io.io.flags = flags
        ticket.io.io.offset = offset
        ticket.io.io.length = length
        ticket.io.io.done = _done
        ticket.io.io.losses_seen = address(self.losses_seen)
        ticket.io.channel = self.channels.channel(self.poller)
        return self.poller.command(_cmd_submit, ticket.io, 0, 0, NULL, (ticket, self))

    def close(self) -> None:
        """Gives the buffer back. No I/O may be in flight."""
        if self.address:
            self.memory.free(self.address)
        self.address = 0


def run_rounds(poller: Poller, times: int = 1) -> int:
    """Runs rounds of a poller that was not started, on this thread; returns how much work there was."""
    p: PollerPtr = poller.core
    work: int = 0
    if poller.thread is not None:
        raise RuntimeError(f"{poller.name} has a thread of its own")
    for _ in range(times):
        p.now = clock.now_ns()
        work += rounds.run_inbox(p) + rounds.run_deferred(p) + rounds.poll_sources(p)
        if p.removed:
            rounds.compact(p)
    return work


def take_buffers(source: PollerBuffers, length: int, at_most: int) -> list[tuple[int, int]]:
    """Buffers for length bytes from a pool, as (address, bytes); none when there are too few."""
    i: cython.int
    iov: iovec[MAX_SEGMENTS]
    n: cython.int = buffers.get(address(source.pool), length, iov, min(at_most, MAX_SEGMENTS))
    return [(cast(uint64_t, iov[i].iov_base), iov[i].iov_len) for i in range(n)]


def give_buffers(source: PollerBuffers, taken: list[tuple[int, int]]) -> None:
    """Gives buffers back to their pool."""
    iov: iovec[1]
    for at, _ in taken:
        iov[0].iov_base = cast(VoidPtr, cast(uint64_t, at))
        buffers.put(address(source.pool), iov, 1)


def quarantine_buffers(source: PollerBuffers, taken: list[tuple[int, int]], epoch: int, holdings: Holdings) -> None:
    """Put buffers in quarantine for a session of the controller with these holdings, on its first poller."""
    iov: iovec[1]
    for at, _ in taken:
        iov[0].iov_base = cast(VoidPtr, cast(uint64_t, at))
        buffers.quarantine(address(source.pool), iov, 1, epoch, address(holdings.of_poller[0]))


def may_take(source: PollerBuffers, length: int, holdings: Holdings) -> bool:
    """Whether that controller gets length bytes more on its first poller."""
    return buffers.fair(address(source.pool), length, address(holdings.of_poller[0]))
