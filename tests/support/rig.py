"""A queue, a bdev and a device in Python, driven round by round on this thread: no poller runs by itself.

async with Rig(size=8) as rig:
    status = rig.submit("read", 0, 4096)
    rig.settle()
    assert status.result() == 0
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.fake_device import FakeDevice, Request
from virtiod.bdev import Bdev, BdevInfo
from virtiod.bdev.keeping import KeptChannels, OnLoss
from virtiod.bdev.limits import RequestLimits
from virtiod.bdev.probe import Probe, run_rounds
from virtiod.controllers.blk.queue import BlkQueue
from virtiod.controllers.repeat import Repetition
from virtiod.core.memory import MIB, DmaMemory
from virtiod.poller.buffers import PollerBuffers
from virtiod.poller.poller import Control, Poller
from virtiod.virtqueue.routes import Routes
from virtiod.virtqueue.spec import RingSpec

ALL = frozenset({"read", "write", "flush", "unmap", "write_zeroes"})
NO_LIMIT = 1 << 30
SMALL_BUFFERS, LARGE_BUFFERS = 64, 40  # of the poller
ROUNDS = 10_000  # far more than any test needs


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test to its end."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


class Rig:
    """See the module. block_size and sizes in bytes. pollers: the first owns the queue, the last submits."""

    def __init__(
        self,
        size: int = 8,
        indirect: bool = True,
        event_idx: bool = True,
        native: frozenset[str] = ALL,
        max_segments: int = 0,
        max_segment: int = NO_LIMIT,
        max_transfer: int = 32 * MIB,
        max_unmap: int = NO_LIMIT,
        max_write_zeroes: int = NO_LIMIT,
        capacity: int = 4 * MIB,
        pollers: int = 1,
        on_loss: OnLoss = OnLoss.IGNORE,
        **info: Any,
    ) -> None:
        self.control = Control()
        self.memory = DmaMemory(16 * MIB)
        self.pollers = [Poller(self.control, i, -1) for i in range(pollers)]
        self.poller = self.pollers[0]
        segments = max_segments or size - 2
        self.queue = BlkQueue(self.memory, self.poller, RingSpec(0, size, indirect, event_idx, segments, "q0"))
        self.buffers = [PollerBuffers(self.memory, SMALL_BUFFERS, LARGE_BUFFERS) for _ in self.pollers]
        self.channels = KeptChannels(self.pollers)
        self.channels.keep(self.buffers, on_loss)
        limits = RequestLimits(segments, max_segment, max_transfer, max_unmap, max_write_zeroes)
        self.channels.limit(set(native), limits)
        self.routes = Routes(self.channels, [self.queue])
        info.setdefault("block_size", 512)
        self.bdev = Bdev("B0", BdevInfo(num_blocks=capacity // info["block_size"], **info), self.channels)
        self.probe = Probe(self.memory, self.pollers[-1], self.channels)
        self.device = FakeDevice(self.memory, self.queue, event_idx, capacity)
        self.submit = self.probe.submit
        self.broken = 0

    async def __aenter__(self) -> Rig:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.do(self.queue.stop())
        await self.do(self.channels.fail_waiting(19))
        await self.do(self.queue.fail(19))
        self.turn(3)
        await self.do(self.channels.close_kept())
        self.control.detach()
        self.queue.close()
        self.probe.close()
        self.device.close()
        for buffers in self.buffers:
            buffers.close()
        self.memory.close()
        if exception[0] is None:
            self.assert_balanced()

    def assert_balanced(self) -> None:
        """At rest, whatever was submitted has ended, once."""
        stats = self.bdev.stats([])
        assert stats.in_flight == 0
        assert stats.oldest_ns == 0
        assert [p.stats().in_flight for p in self.pollers] == [0] * len(self.pollers)
        for op, s in stats.ops.items():
            assert s.submitted == s.completed + s.failed, op
            assert s.below == [s.submitted]
            assert sum(s.errors) == s.failed
        for buffers in self.buffers:
            pool = buffers.stats()
            assert (pool["small_free"], pool["large_free"]) == (SMALL_BUFFERS, LARGE_BUFFERS)
            assert (pool["kept_small"], pool["kept_large"]) == (0, 0)
        counters = self.queue.counters()
        assert counters.in_flight == 0
        assert counters.submitted == counters.completed

    # ---- rounds

    def turn(self, rounds: int = 1) -> None:
        """Rounds of the pollers, and what they tell the control plane. The device does nothing."""
        self._rounds(rounds)
        self.control.drain()

    def _rounds(self, times: int) -> int:
        """Work that was done. One that does not own the queue comes before and after the owner: what it hands over,
        and what comes back, takes no longer than without it."""
        others = self.pollers[1:]
        return sum(run_rounds(p) for _ in range(times) for p in (*others, self.poller, *others))

    def settle(self, status: Callable[[Request], int | None] | None = None) -> int:
        """Device and driver take turns until neither has work; how many requests were answered."""
        answered = 0
        for _ in range(ROUNDS):
            work = self._rounds(2)
            self.control.drain()
            n = self.device.serve(status)
            answered += n
            if not n and not work:
                return answered
        raise AssertionError("no end of work")

    def rush(self) -> int:
        """settle() for very many requests, which all succeed unseen; how many were answered."""
        answered = 0
        while self._rounds(2) + (served := self.device.rush()):
            self.control.drain()
            answered += served
        return answered

    async def do(self, work: Coroutine[Any, Any, Any], serve: bool = False) -> Any:
        """Run rounds until a coroutine has ended; its result. serve: the device works meanwhile."""
        task = asyncio.ensure_future(work)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            if task.done():
                return task.result()
            self.turn()
            if serve:
                self.device.serve()
        task.cancel()
        raise AssertionError("it does not end")

    # ---- the queue's life

    async def start(self, hold: bool = False) -> None:
        """A device begins with an empty ring. hold: I/O waits for release()."""
        self.queue.reset()
        self.device.reset()
        await self.do(self.queue.start(self.device.kick, self.device.call, self._on_broken, hold))

    async def restart(self) -> None:
        """The device went away and came back."""
        await self.do(self.queue.stop())
        await self.start()

    async def lose_cache(self) -> Repetition:
        """The device dies with what its cache held, and comes back; what became of the writes that were kept."""
        await self.do(self.queue.stop())
        await self.do(self.channels.hold())
        self.channels.lose_unkept()
        self.device.lose_cache()
        await self.start(hold=True)
        repetition = Repetition(self.channels, self.queue)
        await self.do(repetition.run(), serve=True)
        await self.do(self.channels.let_go())
        await self.do(self.queue.release())
        return repetition

    def _on_broken(self) -> None:
        self.broken += 1
