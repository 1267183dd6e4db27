"""Which request queue serves which channel of a bdev."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.core.types import UnitSharePtr
from cython.cimports.virtiod.virtqueue import requests
from cython.cimports.virtiod.virtqueue.queue import IoQueueArray, IoQueuePtr, RoutePtr

if TYPE_CHECKING:
    from virtiod.bdev.channel import BdevChannels
    from virtiod.virtqueue.handle import RequestQueue


class Routes:
    """Which queue serves which channel of a bdev. The channels keep it alive, and it the queues: an I/O that another
    poller hands over finds its queue, however late.

    at_once: how many requests the bdev's unit takes at once, 0: any number. Each queue has its share of them, so that
    none has to ask another; with more queues than that, those at the end don't serve the unit.
    """

    routes: RoutePtr
    shares: UnitSharePtr
    count: cython.int
    queues: list[RequestQueue]

    def __init__(self, channels: BdevChannels, queues: list[RequestQueue], at_once: int = 0) -> None:
        i: cython.int
        self.queues = queues[: at_once or None]
        channels.served_by = self
        self.count = channels.count
        self.routes = cast(RoutePtr, calloc(self.count, sizeof(self.routes[0])))
        if self.routes == NULL:
            raise MemoryError
        if at_once:
            self._share(channels, at_once)
        for i in range(self.count):
            self._connect(channels, i)

    def _share(self, channels: BdevChannels, at_once: int) -> None:
        k: cython.int
        n: cython.int = len(self.queues)
        queue: RequestQueue
        limits = [at_once // n + (k < at_once % n) for k in range(n)]
        for k in range(n):
            queue = self.queues[k]
            queue.q.number = k
        if all(limits[k] >= self.queues[k].size for k in range(n)):
            return
        self.shares = cast(UnitSharePtr, calloc(n, sizeof(self.shares[0])))
        if self.shares == NULL:
            raise MemoryError
        for k in range(n):
            self.shares[k].limit = limits[k]
        channels.core.shares = self.shares

    def _connect(self, channels: BdevChannels, i: cython.int) -> None:
        k: cython.int
        n: cython.int = len(self.queues)
        r: RoutePtr = address(self.routes[i])
        queue: RequestQueue
        r.local = cast(IoQueueArray, calloc(n, sizeof(IoQueuePtr)))
        if r.local == NULL:
            raise MemoryError
        for k in range(n):
            queue = self.queues[k]
            if queue.poller is channels.pollers[i]:
                r.local[r.n_local] = address(queue.q)
                r.n_local += 1
        queue = self.queues[i % n]
        r.remote = address(queue.q)
        channels.connect(i, requests.submit_local if r.n_local else requests.submit_remote, r)

    def __dealloc__(self) -> None:
        i: cython.int
        if self.routes != NULL:
            for i in range(self.count):
                free(self.routes[i].local)
            free(self.routes)
        free(self.shares)
