"""What takes turns, as Python has it: a device, and a user of a bdev."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cython import NULL, address, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.tests.sim import device, history, medium, users
from cython.cimports.tests.sim.device import MAX_QUEUES, Flaw, Lie, Model, RingPtr, RingState
from cython.cimports.tests.sim.engine import Engine
from cython.cimports.tests.sim.history import BLOCK, Blocks
from cython.cimports.tests.sim.users import User, UserIo, UserIoPtr
from cython.cimports.virtiod.bdev.channel import BdevChannels
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, U64Ptr
from cython.cimports.virtiod.poller.buffers import PollerBuffers
from cython.cimports.virtiod.poller.poller import Poller
from cython.cimports.virtiod.virtqueue.layout import AvailPtr, DescPtr, U16Ptr, UsedPtr

from virtiod.virtio.features import Feature

if TYPE_CHECKING:
    from virtiod.transports.interface import Doorbell, QueueLayout

FLAWS = {
    "": int(Flaw.SOUND),
    "loses flushes": int(Flaw.LOSES_FLUSH),
    "loses writes": int(Flaw.LOSES_WRITE),
    "reads old data": int(Flaw.OLD_READ),
    "writes to the wrong sector": int(Flaw.WRONG_SECTOR),
    "forgets interrupts": int(Flaw.NO_INTERRUPT),
    "answers reads early": int(Flaw.ANSWERS_EARLY),
    "writes again later": int(Flaw.LATE_WRITE),
    "drops requests": int(Flaw.DROPS),
}
LIES = (int(Lie.UNKNOWN_ID), int(Lie.FAR_INDEX))


class Device:
    """A disk behind a transport. blocks: its history, which is empty."""

    m: Model
    engine: Engine
    blocks: Blocks

    def __init__(self, engine: Engine, blocks: Blocks, serial: str, write_back: bool, delay_ns: int, flaw: str) -> None:
        i: uint32_t
        n: uint64_t = blocks.h.blocks
        data: bytes = serial.encode()
        self.engine = engine
        self.blocks = blocks
        blocks.h.sim = address(engine.t.sim)
        self.m.sim = address(engine.t.sim)
        self.m.sectors = blocks.h.blocks
        self.m.current = cast(CharPtr, calloc(4, n * BLOCK))
        if self.m.current == NULL:
            raise MemoryError
        self.m.stable = self.m.current + n * BLOCK
        self.m.dirty = cast(BytePtr, self.m.stable + n * BLOCK)
        self.m.flaw = FLAWS[flaw]
        if flaw == "reads old data":
            self.m.before = self.m.current + 3 * n * BLOCK
        self.m.write_back = write_back
        self.m.delay_ns = max(1, delay_ns)
        memcpy(self.m.serial, cast(CharPtr, data), min(len(data), 20))
        for i in range(cast(uint32_t, MAX_QUEUES)):
            self.m.rings[i].device = address(self.m)
            self.m.rings[i].index = i
        for i in range(blocks.h.blocks):
            self._first(i)
        memcpy(self.m.stable, self.m.current, n * BLOCK)
        memcpy(self.m.current + 3 * n * BLOCK, self.m.current, n * BLOCK)
        engine.add_model(address(self.m), self)

    def _first(self, i: uint32_t) -> None:
        """What is in a block from the beginning counts as written before all else."""
        which: uint64_t = history.begin(address(self.blocks.h), i)
        history.end(address(self.blocks.h), which, True)
        history.stamp(self.m.current + cast(uint64_t, i) * BLOCK, which)
        self.blocks.h.stable[i] = self.blocks.h.writes[which].start
        if i >= self.blocks.h.shared:
            history.only(address(self.blocks.h), i, which)

    @property
    def requests(self) -> int:
        return self.m.requests

    def set_errors(self, of_1000: int) -> None:
        """How many requests fail."""
        self.m.errors = of_1000

    def set_foreign(self, foreign: bool) -> None:
        """It is another disk for now, by its serial: no I/O may reach it."""
        self.m.foreign = foreign
        self.m.serial[0] = 0x58 if foreign else 0x73

    def set_limits(self, seg_max: int, size_max: int) -> None:
        """Of one request: how many segments of data, and of how many bytes each."""
        self.m.seg_max = seg_max
        self.m.size_max = size_max

    def tell_memory(self, start: int, end: int) -> None:
        self.m.known_from = start
        self.m.known_to = end

    def set_up(self, index: int, layout: QueueLayout, features: int, bell: Doorbell) -> None:
        """The driver describes a queue."""
        r: RingPtr = address(self.m.rings[cast(uint32_t, index)])
        size: uint32_t = layout.size
        memset(r.jobs, 0, sizeof(r.jobs))
        r.state = RingState.SET
        r.event_idx = features >> int(Feature.EVENT_IDX) & 1
        r.indirect = features >> int(Feature.INDIRECT_DESC) & 1
        r.asleep = 0
        r.size = size
        r.mask = size - 1
        r.last_avail = layout.base
        r.used_idx = layout.base
        r.shown = layout.base
        r.n_jobs = 0
        r.desc = cast(DescPtr, cast(uint64_t, layout.desc))
        r.avail = cast(AvailPtr, cast(uint64_t, layout.avail))
        r.used = cast(UsedPtr, cast(uint64_t, layout.used))
        r.used_event = address(r.avail.ring[size])
        r.avail_event = cast(U16Ptr, address(r.used.ring[size]))
        r.kick_fd = bell.kick_fd
        r.call_fd = bell.call_fd

    def start(self, index: int) -> None:
        self.m.rings[cast(uint32_t, index)].state = RingState.RUNNING

    def stop(self, index: int) -> int:
        """Stop a queue at once; the available index that it would go on from."""
        r: RingPtr = address(self.m.rings[cast(uint32_t, index)])
        r.state = RingState.OFF
        return r.last_avail

    def silence(self) -> None:
        """It does nothing any more."""
        self.m.silent = 1

    def greet(self) -> None:
        """A driver connects: whatever was wrong, it answers again."""
        self.m.silent = 0
        self.m.lie = Lie.TRUTH

    def lie(self, which: int) -> None:
        """It writes what no device may, as soon as it can."""
        self.m.lie = which

    def linger(self) -> None:
        """Whenever its driver just lets go of it, it goes on with what it was asked for."""
        self.m.lingers = 1

    def end_late(self) -> None:
        """Its process ended: it does no more of what it was asked for before."""
        medium.forget_late(address(self.m))

    def lost(self, goes_on: bool) -> None:
        """Its connection ended: what was asked of it is forgotten, unless it goes on with it."""
        device.forget(address(self.m), goes_on)
        history.lost(address(self.blocks.h))

    def write_off(self) -> None:
        """Its bdev was given up with acknowledged writes that were not stable."""
        history.write_off(address(self.blocks.h))

    def die(self, kept_of_1000: int) -> None:
        """Power failure: the cache is lost, but for a part. What a flush covered must be there."""
        i: uint32_t
        device.forget(address(self.m), False)
        medium.die(address(self.m), kept_of_1000)
        for i in range(self.m.sectors):
            history.survived(address(self.blocks.h), i, self.m.current + cast(uint64_t, i) * BLOCK)
        history.lost(address(self.blocks.h))

    def __dealloc__(self) -> None:
        free(self.m.current)


class Client:
    """A user of a bdev, on one poller. shares: how many of 1000 I/Os are of each kind, in the order of OPS."""

    u: User
    keep: object

    def __init__(
        self,
        disk: Device,
        poller: Poller,
        pool: PollerBuffers,
        depth: int,
        shares: list[int],
        fua: int,
        think_ns: int,
        hands_over: int,
    ) -> None:
        i: uint32_t
        self.keep = (disk, poller, pool)
        self.u.sim = address(disk.engine.t.sim)
        self.u.history = address(disk.blocks.h)
        self.u.poller = poller.core
        self.u.pool = address(pool.pool)
        self.u.depth = depth
        self.u.fua = fua
        self.u.hands_over = hands_over
        self.u.think_ns = max(1, think_ns)
        self.u.hurry = 700
        self.u.stopped = 1
        for i in range(5):
            self.u.share[i] = shares[i]
        self.u.ios = cast(UserIoPtr, calloc(depth, sizeof(UserIo)))
        if self.u.ios == NULL:
            raise MemoryError
        for i in range(self.u.depth):
            self.u.ios[i].user = address(self.u)
            self.u.ios[i].io.done = users._done
            self.u.ios[i].io.losses_seen = address(self.u.losses)
            self.u.ios[i].before = cast(U64Ptr, calloc(disk.blocks.h.blocks, sizeof(uint64_t)))
            if self.u.ios[i].before == NULL:
                raise MemoryError
        disk.engine.add_user(address(self.u), self)

    def open(self, channels: BdevChannels, poller: Poller) -> None:
        self.u.channel = channels.channel(poller)
        self.u.losses = channels.losses()
        self.u.heard = self.u.history.lost

    def use(self, pool: PollerBuffers) -> None:
        """Take buffers from this pool from now on. The pool is its poller's, and remains."""
        self.keep = (self.keep, pool)
        self.u.pool = address(pool.pool)

    def start(self, ios: int) -> None:
        """Begin so many I/Os."""
        self.u.left = ios
        self.u.stopped = 0
        self.u.sweeping = 0
        self.u.next = self.u.sim.now

    def sweep(self) -> None:
        """Read all blocks once."""
        self.start(self.u.history.blocks)
        self.u.sweeping = 1
        self.u.sweep = 0

    def stop(self) -> int:
        """Begin no more; how many were left."""
        self.u.stopped = 1
        return self.u.left

    def close(self) -> None:
        self.u.channel = NULL

    @property
    def in_flight(self) -> int:
        return self.u.in_flight

    @property
    def left(self) -> int:
        return self.u.left

    @property
    def done(self) -> int:
        return self.u.done

    @property
    def failed(self) -> int:
        return self.u.failed

    def __dealloc__(self) -> None:
        i: uint32_t
        if self.u.ios != NULL:
            for i in range(self.u.depth):
                free(self.u.ios[i].before)
        free(self.u.ios)
