"""A poller's data buffers, in DMA memory: small ones of 4 KiB and large ones of 64 KiB, taken and given back by that
poller's thread only, without a lock or a system call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.core.types import CharArray, CharPtr, CommandPtr, HoldingPtr, IovPtr, PollerPtr, iovec
from cython.cimports.virtiod.poller.buffers import (
    KEPT_LARGE,
    KEPT_SMALL,
    LARGE,
    SMALL,
    BufferPool,
    PoolPtr,
    Quarantined,
    QuarantinedPtr,
)

if TYPE_CHECKING:
    import asyncio

    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller

SMALL_BUFFERS = 2048
LARGE_BUFFERS = 640


def get(pool: PoolPtr, length: uint64_t, iov: IovPtr, max: cython.int) -> cython.int:
    large: uint64_t = length // LARGE
    rest: uint64_t = length - large * LARGE
    small: cython.bint = False
    n: cython.int = 0
    if rest:
        small = rest <= SMALL and pool.small_left > 0
        if not small:
            large += 1
    if large > pool.large_left or large + small > cast(uint64_t, max):
        pool.exhausted += 1
        return 0
    pool.taken_large += large
    pool.taken_small += small
    while large:
        large -= 1
        pool.large_left -= 1
        iov[n].iov_base = pool.free_large[pool.large_left]
        iov[n].iov_len = LARGE
        n += 1
    if small:
        pool.small_left -= 1
        iov[n].iov_base = pool.free_small[pool.small_left]
        n += 1
    if rest:
        iov[n - 1].iov_len = rest
    return n


def put(pool: PoolPtr, iov: IovPtr, n: cython.int) -> None:
    i: cython.int
    at: CharPtr
    for i in range(n):
        at = cast(CharPtr, iov[i].iov_base)
        if at >= pool.large:
            pool.free_large[pool.large_left] = at
            pool.large_left += 1
        else:
            pool.free_small[pool.small_left] = at
            pool.small_left += 1


def count(pool: PoolPtr, iov: IovPtr, n: cython.int, holding: HoldingPtr, sign: int64_t) -> None:
    i: cython.int
    for i in range(n):
        if cast(CharPtr, iov[i].iov_base) >= pool.large:
            holding.used_large += sign * LARGE
        else:
            holding.used_small += sign * SMALL


def quarantine(pool: PoolPtr, iov: IovPtr, n: cython.int, epoch: uint64_t, holding: HoldingPtr) -> None:
    # Safety: there is room for every buffer of the pool, and each is in one place only.
    i: cython.int
    q: QuarantinedPtr
    count(pool, iov, n, holding, 1)
    for i in range(n):
        q = address(pool.quarantined[pool.n_quarantined])
        pool.n_quarantined += 1
        q.at = cast(CharPtr, iov[i].iov_base)
        q.epoch = epoch
        q.holding = holding
        if q.at >= pool.large:
            holding.large += LARGE
            pool.quarantined_large += LARGE
        else:
            holding.small += SMALL
            pool.quarantined_small += SMALL


def fair(pool: PoolPtr, length: uint64_t, holding: HoldingPtr) -> cython.bint:
    """Of each size a controller may hold as much as it leaves free: however many hang, there is some for the next."""
    large: uint64_t = length // LARGE * LARGE
    rest: uint64_t = length - large
    small: uint64_t = SMALL if rest and rest <= SMALL and pool.small_left else 0
    if rest and not small:
        large += LARGE
    return _fair(holding.used_small, small, cast(uint64_t, pool.small_left) * SMALL) and _fair(
        holding.used_large, large, cast(uint64_t, pool.large_left) * LARGE
    )


def _fair(used: uint64_t, more: uint64_t, free_bytes: uint64_t) -> cython.bint:
    return more == 0 or used == 0 or (more <= free_bytes and used + more <= free_bytes - more)


def limit(pool: PoolPtr, holding: HoldingPtr) -> uint64_t:
    # What is kept may be so for long: until somebody flushes. fair() for length, when all else is free.
    large: uint64_t = cast(uint64_t, pool.n_large) * LARGE - pool.quarantined_large
    small: uint64_t = cast(uint64_t, pool.n_small) * SMALL - pool.quarantined_small
    own_large: uint64_t = holding.large if holding != NULL else 0
    own_small: uint64_t = holding.small if holding != NULL else 0
    kept: uint64_t = LARGE * cast(uint64_t, pool.kept_large if own_large == 0 else pool.n_large // KEPT_LARGE)
    large = _ever(own_large, large - kept if large > kept else 0)
    if large:
        return large
    kept = SMALL * cast(uint64_t, pool.kept_small if own_small == 0 else pool.n_small // KEPT_SMALL)
    small = _ever(own_small, small - kept if small > kept else 0)
    return SMALL if small >= SMALL else 0


def _ever(own: uint64_t, total: uint64_t) -> uint64_t:
    """How much of total one may have who holds own for good."""
    if own == 0:
        return total
    return (total - own) // 2 if total > own else 0


def _cmd_release(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Take what is in quarantine for session arg back; returns how many buffers."""
    pool: PoolPtr = cast(PoolPtr, c.ctx)
    q: QuarantinedPtr
    i: uint32_t
    left: uint32_t = 0
    n: int64_t = 0
    one: iovec[1]
    for i in range(pool.n_quarantined):
        q = address(pool.quarantined[i])
        if q.epoch != cast(uint64_t, c.arg):
            pool.quarantined[left] = q[0]
            left += 1
            continue
        one[0].iov_base = q.at
        count(pool, one, 1, q.holding, -1)
        put(pool, one, 1)
        if q.at >= pool.large:
            q.holding.large -= LARGE
            pool.quarantined_large -= LARGE
        else:
            q.holding.small -= SMALL
            pool.quarantined_small -= SMALL
        n += 1
    pool.n_quarantined = left
    return n


class PollerBuffers:
    """The buffers of one poller. n_small, n_large: how many."""

    pool: BufferPool
    memory: DmaMemory
    address: uint64_t
    keepers: list[object]

    def __init__(self, memory: DmaMemory, small: int = SMALL_BUFFERS, large: int = LARGE_BUFFERS) -> None:
        i: uint32_t
        self.memory = memory
        self.pool.n_small = small
        self.pool.n_large = large
        self.pool.free_small = cast(CharArray, calloc(small, sizeof(CharPtr)))
        self.pool.free_large = cast(CharArray, calloc(large, sizeof(CharPtr)))
        self.pool.quarantined = cast(QuarantinedPtr, calloc(small + large, sizeof(Quarantined)))
        if self.pool.free_small == NULL or self.pool.free_large == NULL or self.pool.quarantined == NULL:
            raise MemoryError
        self.keepers = []
        self.address = memory.allocate(small * SMALL + large * LARGE)
        self.pool.small = cast(CharPtr, self.address)
        self.pool.large = self.pool.small + cast(uint64_t, small) * SMALL
        self.pool.end = self.pool.large + cast(uint64_t, large) * LARGE
        for i in range(self.pool.n_small):
            self.pool.free_small[i] = self.pool.small + cast(uint64_t, i) * SMALL
        for i in range(self.pool.n_large):
            self.pool.free_large[i] = self.pool.large + cast(uint64_t, i) * LARGE
        self.pool.small_left = self.pool.n_small
        self.pool.large_left = self.pool.n_large

    def stats(self) -> dict[str, int]:
        """How many buffers there are and are free, how many were taken, and how often there were too few."""
        return {
            "small": self.pool.n_small,
            "small_free": self.pool.small_left,
            "large": self.pool.n_large,
            "large_free": self.pool.large_left,
            "exhausted": self.pool.exhausted,
            "taken_small": self.pool.taken_small,
            "taken_large": self.pool.taken_large,
            "kept_small": self.pool.kept_small,
            "kept_large": self.pool.kept_large,
            "quarantined_small": self.pool.quarantined_small // SMALL,
            "quarantined_large": self.pool.quarantined_large // LARGE,
        }

    def release(self, poller: Poller, epoch: int) -> asyncio.Future[int]:
        """Take back what is in quarantine for a session, whose device is over; a future of how many buffers."""
        return poller.command(_cmd_release, address(self.pool), epoch, 0, NULL, self)

    def keep_for(self, owner: object) -> None:
        """Have the owner of buffers in quarantine live as long as the pool."""
        if owner not in self.keepers:
            self.keepers.append(owner)

    def close(self) -> None:
        """Give the memory back, unless a device may still use some of it."""
        if self.address and not self.pool.n_quarantined:
            self.memory.free(self.address)
        self.address = 0

    def __dealloc__(self) -> None:
        free(self.pool.free_small)
        free(self.pool.free_large)
        free(self.pool.quarantined)
