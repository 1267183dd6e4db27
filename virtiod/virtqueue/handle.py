"""A controller's request queue as the control plane has it; how it carries I/O is in requests.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset, strncpy
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.bdev.keeping import KeptFlush, KeptRecord
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import CharPtr, MessagePtr, PollerPtr, U64Ptr, VoidPtr
from cython.cimports.virtiod.virtqueue import commands, notify, queue, requests, split
from cython.cimports.virtiod.virtqueue.layout import Seg, SegPtr, Virtq, VirtqPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueue, IoQueuePtr, Slot, SlotPtr

from virtiod.core.errors import NoMemory

if TYPE_CHECKING:
    import asyncio

    from virtiod.core.memory import DmaMemory, Translation
    from virtiod.poller.poller import Poller
    from virtiod.virtqueue.spec import RingSpec

ZEROES = 65536


@dataclass(frozen=True)
class QueueCounters:
    """What a request queue counted. interrupts: sleeps that its call eventfd ended; full: I/Os that had to wait."""

    index: int
    size: int
    in_flight: int
    submitted: int
    completed: int
    kicks: int
    interrupts: int
    full: int
    poller: str


@cython.final
@cython.cclass
class _Ring:
    """A ring that no queue has."""

    ring: Virtq

    def __cinit__(self) -> None:
        memset(address(self.ring), 0, sizeof(self.ring))

    def __dealloc__(self) -> None:
        if self.ring.ops.destroy != NULL:
            self.ring.ops.destroy(address(self.ring))


class RequestQueue:
    """A request queue of a controller; base of the classes of each kind of controller, which set ops.

    Its ring is in DMA memory from here on until close(). It starts stopped: I/O waits until start().
    """

    q: IoQueue
    index: int
    poller: Poller
    memory: DmaMemory
    address: uint64_t
    bytes: uint64_t
    zeroes_address: uint64_t
    spec: RingSpec
    area_bytes: uint32_t
    call_fd: int

    def __cinit__(self) -> None:
        memset(address(self.q), 0, sizeof(self.q))
        self.q.kick_fd = -1
        self.q.stopped = 1
        self.call_fd = -1

    def allocate(self, memory: DmaMemory, poller: Poller, spec: RingSpec, area_bytes: int) -> None:
        """Lays the ring out. area_bytes: what the kind of controller needs beside each slot's descriptors."""
        i: uint32_t
        chain: uint32_t = spec.max_segments + queue.DATA_SEG
        name: bytes = spec.name.encode()[:39]
        self.memory = memory
        self.poller = poller
        self.index = spec.index
        self.q.poller = poller.core
        self.spec = spec
        self.area_bytes = area_bytes
        self.bytes = split.footprint(spec.size, area_bytes, chain)
        self.address = memory.allocate(self.bytes, in_one_page=True)
        self._lay_out(address(self.q.vq), self.address)
        self.zeroes_address = memory.allocate(ZEROES, in_one_page=True)
        self.q.zeroes = cast(CharPtr, self.zeroes_address)
        self.q.zeroes_len = ZEROES
        self.q.slots = cast(SlotPtr, calloc(spec.size, sizeof(Slot)))
        self.q.segs = cast(SegPtr, calloc(chain + queue.DATA_SEG, sizeof(Seg)))
        if self.q.slots == NULL or self.q.segs == NULL:
            raise MemoryError
        for i in range(self.q.vq.size):
            self.q.slots[i].next = i + 1 if i + 2 < self.q.vq.size else queue.NO_SLOT
        self.q.free_slot = 0
        self.q.spare = cast(uint16_t, self.q.vq.size - 1)
        strncpy(self.q.source.name, name, 39)
        self.q.source.poll = requests.poll
        self.q.source.flush = notify.flush
        self.q.source.arm = notify.arm
        self.q.source.disarm = notify.disarm

    def _lay_out(self, ring: VirtqPtr, at: uint64_t) -> cython.int:
        """Lay a ring out at an address, in its format, which the spec would name if there were another than split."""
        spec = self.spec
        chain: uint32_t = spec.max_segments + queue.DATA_SEG
        ret = split.init(ring, cast(VoidPtr, at), spec.size, self.area_bytes, chain, spec.indirect, spec.event_idx)
        if ret:
            raise OSError(-ret, f"ring of {spec.size} descriptors")
        return 0

    @property
    def size(self) -> int:
        return self.q.vq.size

    @property
    def stopped(self) -> bool:
        """Whether the queue is not polled: I/O waits."""
        return self.q.stopped != 0

    @property
    def blocked(self) -> bool:
        """Whether the device made a kick block."""
        return self.q.blocked != 0

    @property
    def progress_ns(self) -> int:
        """When the device answered an I/O last (CLOCK_MONOTONIC, ns); 0: never."""
        return atomics.relaxed_u64(address(self.q.progress_ns))

    def ring_addresses(self) -> tuple[int, int, int]:
        """Addresses of the descriptors, the avail ring and the used ring, as this process sees them."""
        return (
            cast(uint64_t, self.q.vq.desc),
            cast(uint64_t, self.q.vq.avail),
            cast(uint64_t, self.q.vq.used),
        )

    def reset(self) -> None:
        """Empties the ring, for a device that does not know it yet. The queue must be stopped."""
        self.q.vq.ops.reset(address(self.q.vq))

    def translate(self, translation: Translation) -> None:
        """Sets how the device addresses DMA memory. The queue must be stopped; reset() then lays its ring out anew."""
        delta = translation.delta_at(self.address)
        if translation.delta_at(self.address + self.bytes - 1) != delta:
            raise NoMemory(f"a ring of {self.size} descriptors needs {self.bytes} bytes in one page of DMA memory")
        self.q.vq.to_device = delta
        self.q.delta = translation.delta
        self.q.pages = cast(U64Ptr, cast(uint64_t, translation.table))
        self.q.pages_base = translation.base
        self.q.page_shift = translation.shift

    async def start(
        self,
        kick_fd: int,
        call_fd: int,
        on_broken: Callable[[], None],
        hold: bool = False,
        kick_address: int = 0,
    ) -> None:
        """Submits again what was in flight, and polls: the device runs the ring since its reset().

        It is kicked by kick_fd, or by a store of the queue's index to the register at kick_address. call_fd -1: it
        can't interrupt. on_broken is called once if the device breaks the ring. hold: I/O waits until release(),
        commands don't.
        """
        self.q.kick_fd = kick_fd
        self.q.blocked = 0
        self.q.kick_address = kick_address
        self.q.kick_index = self.index
        self.q.source.nap_ns = 0
        self.q.source.fd = call_fd
        self.q.event.run = _announced
        self.poller.control.expect(address(self.q.event), on_broken)
        ret: int = await self.poller.command(commands.start, address(self.q), hold)
        if ret:
            self.poller.control.forget(address(self.q.event))
            raise OSError(-ret, f"poll queue {self.index}")
        self.poller.own(address(self.q.source), self)

    async def release(self) -> None:
        """Submits the I/O that start() held back."""
        await self.poller.command(commands.release, address(self.q))

    async def stop(self) -> None:
        """Stops polling and submitting; I/O waits."""
        await self.poller.command(commands.stop, address(self.q))
        self.poller.control.forget(address(self.q.event))
        self.poller.disown(address(self.q.source))

    async def doubt(self, epoch: int) -> None:
        """Say that the device of that session may still use what is in flight; 0: none may. The queue is stopped."""
        await self.poller.command(commands.doubt, address(self.q), epoch)

    async def in_doubt(self) -> int:
        """How many requests of I/Os the device was given. The queue is stopped."""
        n: int = await self.poller.command(commands.in_doubt, address(self.q))
        return n

    async def unread(self) -> bool:
        """Whether the device gave an answer that was not taken. The queue is stopped, its ring is not used again."""
        n: int = await self.poller.command(commands.unread, address(self.q))
        return n != 0

    async def renew(self) -> int:
        """Have the ring, and the headers beside it, in new memory; returns the address of the old, now the caller's.
        The queue is stopped. Raises NoMemory."""
        fresh = self.memory.allocate(self.bytes, in_one_page=True)
        old: int = self.address
        await self._exchange(fresh)
        self.address = fresh
        return old

    def _exchange(self, at: uint64_t) -> asyncio.Future[int]:
        spare: _Ring = _Ring()
        self._lay_out(address(spare.ring), at)
        return self.poller.command(
            commands.exchange_ring, address(self.q), 0, 0, cast(VoidPtr, address(spare.ring)), (spare, self)
        )

    def request(self, out: VoidPtr, keep: object) -> asyncio.Future[int]:
        """Sends a control command; the future of what result() makes of its answer, negative if it was not sent.

        out: what build() and result() of the kind of controller work on, which keep owns.
        """
        return self.poller.command(commands.request, address(self.q), 0, 0, out, (keep, self))

    def _repeat(self, record: KeptRecord) -> asyncio.Future[int]:
        return self.poller.command(commands.repeat, address(self.q), 0, 0, record.io(), (record, self))

    async def repeat(self, record: KeptRecord) -> int:
        """Write a kept write again, while other I/O of its disk is held. 0 or -errno: of the device, or EBUSY: there is
        no room, ESHUTDOWN when the device is lost, or its disk is in doubt again."""
        ret: int = 0
        record.begin(clock.now_ns())
        while ret == 0 and not record.done:
            ret = await self._repeat(record)
        return ret

    async def flush(self, flush: KeptFlush) -> int:
        """Have the device flush what it was given by repeat(). 0 or -errno, as there."""
        flush.begin(clock.now_ns())
        ret: int = await self.poller.command(commands.repeat, address(self.q), 0, 0, flush.io(), (flush, self))
        return ret

    def _unit_reset(self, channels: BdevChannels) -> asyncio.Future[int]:
        return self.poller.command(commands.unit_reset, address(self.q), 0, 0, address(channels.core), (channels, self))

    async def unit_reset(self, channels: BdevChannels) -> int:
        """A unit whose I/O is held lost what its cache held: writes that have not ended begin again.

        Returns how many of its requests the device may still work on; more than 0: to be called again.
        """
        n: int = await self._unit_reset(channels)
        return n

    async def fail(self, code: int, before_ns: int = 0) -> int:
        """Ends I/O with errno code: all of it and all later I/O, or (before_ns) what was submitted before that time.

        The queue must be stopped, the device cut off; a running queue is left as it is. Returns how many requests
        were in flight for it.
        """
        n: int = await self.poller.command(commands.fail, address(self.q), before_ns, code)
        return n

    async def fail_commands(self, code: int) -> None:
        """End the control plane's commands with errno code. The queue is stopped."""
        await self.poller.command(commands.fail, address(self.q), 1, code)  # no I/O was submitted before 1 ns

    async def expire(self, before_ns: int) -> int:
        """End with ETIMEDOUT the I/O of which the device was given something before that time (CLOCK_MONOTONIC, ns).

        The queue must be stopped; a running one is left as it is. Returns how many requests were in flight for it.
        """
        n: int = await self.poller.command(commands.expire, address(self.q), before_ns)
        return n

    async def overdue(self, before_ns: int, timeout_ns: int) -> int:
        """How many requests the device was given before that time (CLOCK_MONOTONIC, ns) and has forgotten: it has
        answered no I/O since, or one that it was given timeout_ns later than them."""
        n: int = await self.poller.command(commands.count_overdue, address(self.q), before_ns, timeout_ns)
        return n

    async def drain(self) -> None:
        """Returns when no I/O is in flight or waits. The caller sets a deadline; fail() ends it too."""
        await self.poller.command(commands.drain, address(self.q))

    def counters(self) -> QueueCounters:
        q: IoQueuePtr = address(self.q)
        return QueueCounters(
            self.index,
            q.vq.size,
            q.n_in_flight,
            atomics.relaxed_u64(address(q.submitted)),
            atomics.relaxed_u64(address(q.completed)),
            atomics.relaxed_u64(address(q.kicks)),
            atomics.relaxed_u64(address(q.source.wakeups)),
            atomics.relaxed_u64(address(q.full)),
            self.poller.name,
        )

    def let_go(self) -> list[int]:
        """End it; returns the addresses of its memory, now the caller's. The queue is stopped and empty."""
        if not self.address:
            return []
        self.q.vq.ops.destroy(address(self.q.vq))
        given = [self.address, self.zeroes_address]
        self.address = 0
        return given

    def close(self) -> None:
        """Give the ring's memory back. The device is cut off, the queue stopped and empty."""
        for at in self.let_go():
            self.memory.free(at)

    def __dealloc__(self) -> None:
        free(self.q.slots)
        free(self.q.segs)
        if self.q.vq.ops.destroy != NULL:
            self.q.vq.ops.destroy(address(self.q.vq))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _announced(m: MessagePtr, p: PollerPtr) -> cython.void:
    """Marks an event that was not sent yet; the control plane's mailbox does not run messages."""
