"""A poller's data buffers, in DMA memory: small ones of 4 KiB and large ones of 64 KiB, taken and given back by that
poller's thread only, without a lock or a system call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.core.types import CharArray, CharPtr, IovPtr
from cython.cimports.virtiod.poller.buffers import LARGE, SMALL, BufferPool, PoolPtr

if TYPE_CHECKING:
    from virtiod.core.memory import DmaMemory


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


def lose(pool: PoolPtr, n: cython.int) -> None:
    pool.lost += n


class PollerBuffers:
    """The buffers of one poller. n_small, n_large: how many."""

    pool: BufferPool
    memory: DmaMemory
    address: uint64_t

    def __init__(self, memory: DmaMemory, small: int = 2048, large: int = 640) -> None:
        i: uint32_t
        self.memory = memory
        self.pool.n_small = small
        self.pool.n_large = large
        self.pool.free_small = cast(CharArray, calloc(small, sizeof(CharPtr)))
        self.pool.free_large = cast(CharArray, calloc(large, sizeof(CharPtr)))
        if self.pool.free_small == NULL or self.pool.free_large == NULL:
            raise MemoryError
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
        """How many buffers there are and are free, and how often there were too few."""
        return {
            "small": self.pool.n_small,
            "small_free": self.pool.small_left,
            "large": self.pool.n_large,
            "large_free": self.pool.large_left,
            "exhausted": self.pool.exhausted,
            "lost": self.pool.lost,
            "kept_small": self.pool.kept_small,
            "kept_large": self.pool.kept_large,
        }

    def close(self) -> None:
        """Gives the memory back, unless a device may still write to a lost buffer."""
        if self.address and not self.pool.lost:
            self.memory.free(self.address)
        self.address = 0

    def __dealloc__(self) -> None:
        free(self.pool.free_small)
        free(self.pool.free_large)
