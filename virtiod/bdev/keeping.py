"""Kept writes as the control plane has them: held still, listed in order, let go, given up; and what is counted."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EBUSY, ENODEV
from cython.cimports.libc.stdint import UINT64_MAX, int64_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.virtiod.bdev import channel, kept, rewind, tally
from cython.cimports.virtiod.bdev.kept import RECORDS, KeepArray, KeepPtr, KeptWrite, KeptWritePtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import (
    COMMAND_LATER,
    EPOCH_OPEN,
    OP_COUNT,
    CommandPtr,
    Io,
    IoPtr,
    MessagePtr,
    Op,
    PollerPtr,
    VoidArray,
    VoidPtr,
    channel_submit_fn,
    command_fn,
)
from cython.cimports.virtiod.poller.buffers import PollerBuffers
from cython.cimports.virtiod.poller.poller import Poller

from virtiod.bdev.channel import BdevChannels

SETTLE_TRIES = 3


class OnLoss(enum.StrEnum):
    """What becomes of writes that were acknowledged and not flushed when their device is lost."""

    KEEP = "keep"  # written again
    REPORT = "report"  # every user's next flush fails, once
    IGNORE = "ignore"


@dataclass(frozen=True)
class KeptCounters:
    """records: kept writes, in parts of up to 256 KiB. flushes: of virtiod's own. repeated: records written again.
    losses: times that acknowledged writes were lost."""

    records: int
    bytes: int
    flushes: int
    repeated: int
    losses: int

    def __add__(self, other: KeptCounters) -> KeptCounters:
        return KeptCounters(
            self.records + other.records,
            self.bytes + other.bytes,
            self.flushes + other.flushes,
            self.repeated + other.repeated,
            self.losses + other.losses,
        )


# ---- on a poller ---------------------------------------------------------------------------------


def _news(m: MessagePtr, p: PollerPtr) -> None:
    """A flush of another poller succeeded."""
    k: KeepPtr = cast(KeepPtr, m)
    atomics.fetch_and_u32(address(k.told), 0)  # before stable is read
    kept.release(k)


def _cmd_hold(p: PollerPtr, c: CommandPtr) -> int64_t:
    cast(KeepPtr, c.ctx).held = 1
    return 0


def _cmd_doubt(p: PollerPtr, c: CommandPtr) -> int64_t:
    """What the device of session arg was writing again is session arg2's now; 0: none's."""
    w: KeptWritePtr = cast(KeepPtr, c.ctx).oldest
    while w != NULL:
        if w.io.epoch == cast(uint64_t, c.arg):
            w.io.epoch = cast(uint64_t, c.arg2)
        w = w.next
    return 0


def _cmd_let_go(p: PollerPtr, c: CommandPtr) -> int64_t:
    k: KeepPtr = cast(KeepPtr, c.ctx)
    k.held = 0
    kept.release(k)
    if kept.wants_flush(k):  # what waits may be all that there is: nothing else would see to it
        channel.start_flush(k)
    return 0


def _cmd_settle(p: PollerPtr, c: CommandPtr) -> int64_t:
    """Answered with the status of virtiod's own flush: the one that is in flight, or a new one."""
    k: KeepPtr = cast(KeepPtr, c.ctx)
    if k.settle != NULL:
        return -EBUSY
    k.settle = c
    if not k.flushing:
        channel.start_flush(k)
    return COMMAND_LATER


def _cmd_fail(p: PollerPtr, c: CommandPtr) -> int64_t:
    """What waits for room and was submitted before arg (ns; 0: all) ends with errno arg2."""
    kept.fail_waiting(cast(KeepPtr, c.ctx), cast(uint64_t, c.arg) if c.arg else UINT64_MAX, -cast(cython.int, c.arg2))
    return 0


def _cmd_close(p: PollerPtr, c: CommandPtr) -> int64_t:
    kept.fail_waiting(cast(KeepPtr, c.ctx), UINT64_MAX, -ENODEV)
    return kept.give_up(cast(KeepPtr, c.ctx))


# ---- control plane -------------------------------------------------------------------------------


class KeptRecord:
    """A kept write, or a part of one, while its channels are held."""

    write: KeptWritePtr
    number: int
    channels: KeptChannels

    @property
    def place(self) -> tuple[int, int]:
        """Offset and length in bytes."""
        return self.write.io.offset, self.write.io.length

    @property
    def has_data(self) -> bool:
        """Or it is a discard, or zeroes."""
        return self.write.io.op == Op.WRITE

    @property
    def done(self) -> bool:
        """All of it was handed to the device, since begin()."""
        return self.write.io.cursor >= self.write.io.length

    @property
    def handed(self) -> int:
        """Bytes that the device was given since begin()."""
        return self.write.io.cursor

    def io(self) -> IoPtr:
        """What to write."""
        return address(self.write.io)

    def begin(self, now: uint64_t) -> None:
        """Write it from its start."""
        io: IoPtr = address(self.write.io)
        io.channel = address(cast(KeepPtr, self.channels.keeps[0]).own)
        io.submitted_ns = now
        io.status = 0
        rewind.rewind(io)
        io.placed = 0

    def lost(self) -> None:
        """The device refused it: it is not to be written again."""
        self.write.lost = 1


class KeptFlush:
    """A flush between kept writes that are written again."""

    flush: Io
    number: uint64_t
    channels: KeptChannels

    def io(self) -> IoPtr:
        """What to ask for."""
        return address(self.flush)

    def begin(self, now: uint64_t) -> None:
        """Before it is handed to the device."""
        self.flush.channel = address(cast(KeepPtr, self.channels.keeps[0]).own)
        self.flush.op = Op.FLUSH
        self.flush.submitted_ns = now

    def succeeded(self) -> None:
        """What was written again before it need not be once more."""
        atomics.raise_u64(address(self.channels.core.stable), self.number)


class KeptChannels(BdevChannels):
    """Channels that keep writes, after keep(). What is kept is given up by close_kept(), whatever happens."""

    on_loss: OnLoss
    keeps: KeepArray
    repeated: int

    def keep(self, pools: list[PollerBuffers], on_loss: OnLoss) -> None:
        """From the first I/O on. pools: of each poller, where its users' buffers come from."""
        i: cython.int
        pool: PollerBuffers
        self.on_loss = on_loss
        self.repeated = 0
        if on_loss == OnLoss.IGNORE:
            return
        self.keeps = cast(KeepArray, calloc(self.count, sizeof(KeepPtr)))
        if self.keeps == NULL:
            raise MemoryError
        for i in range(self.count):
            self._add(i)
            if on_loss == OnLoss.KEEP:
                pool = pools[i]
                kept.give_room(self.keeps[i], address(pool.pool))
        self.core.n_keeps = self.count

    def _add(self, i: cython.int) -> None:
        op: cython.int
        k: KeepPtr = cast(KeepPtr, calloc(1, sizeof(self.keeps[0][0])))
        if k == NULL:
            raise MemoryError
        self.keeps[i] = k
        self.core.keeps = cast(VoidArray, self.keeps)
        k.records = cast(KeptWritePtr, calloc(RECORDS, sizeof(KeptWrite)))
        if k.records == NULL:
            raise MemoryError
        k.channel = self.channels[i]
        k.news.run = _news
        k.own.poller = k.channel.poller
        k.own.bdev = k.channel.bdev
        k.own.submit = k.channel.submit
        k.own.device = k.channel.device
        for op in range(OP_COUNT):
            tally.begin(address(k.own.ops[op]))
        k.channel.keep = k

    def connect(self, index: cython.int, submit: channel_submit_fn, device: VoidPtr) -> None:
        """As BdevChannels.connect()."""
        BdevChannels.connect(self, index, submit, device)
        if self.keeps != NULL:
            self.keeps[index].own.submit = submit
            self.keeps[index].own.device = device

    def _on_each(self, fn: command_fn, arg: int64_t = 0, arg2: int64_t = 0) -> list[asyncio.Future[int]]:
        """A command to each poller, about its Keep."""
        i: cython.int
        poller: Poller
        answers: list[asyncio.Future[int]] = []
        if self.keeps == NULL:
            return answers
        for i in range(self.count):
            poller = self.pollers[i]
            answers.append(poller.command(fn, self.keeps[i], arg, arg2, NULL, self))
        return answers

    async def hold(self) -> None:
        """The device is lost, its queues are stopped: nothing leaves what is kept."""
        await asyncio.gather(*self._on_each(_cmd_hold))
        # All pollers have seen the flushes that were answered: which writes are stable is settled.

    def lose_unkept(self) -> bool:
        """What a device had in its cache is gone. Returns whether acknowledged writes were lost with it, of which there
        is no record. They are held."""
        stable: uint64_t = atomics.load_u64(address(self.core.stable))
        lost: bool = atomics.load_u64(address(self.core.not_kept)) > stable
        if lost:
            atomics.store_u64(address(self.core.not_kept), 0)
            self.count_loss()
        return lost

    async def name_doubt(self, epoch: int) -> None:
        """The session that ended last is not over: its device may still write again what it was given. 0: it is."""
        await asyncio.gather(*self._on_each(_cmd_doubt, EPOCH_OPEN, epoch))

    async def end_doubt(self, epoch: int) -> None:
        """That session is over."""
        await asyncio.gather(*self._on_each(_cmd_doubt, epoch, 0))

    def lose_in_doubt(self) -> bool:
        """What a device of an old session may still write again is lost: no other one is to write it. Returns whether
        there was any. They are held."""
        i: cython.int
        w: KeptWritePtr
        stable: uint64_t = atomics.load_u64(address(self.core.stable))
        lost: bool = False
        if self.keeps == NULL:
            return False
        for i in range(self.count):
            w = self.keeps[i].oldest
            while w != NULL:
                if w.io.epoch and w.number >= stable and not w.lost:
                    w.lost = 1
                    lost = True
                w = w.next
        if lost:
            self.count_loss()
        return lost

    def records(self) -> list[KeptRecord]:
        """What was acknowledged and is not stable, in the order in which to write it again. They are held."""
        i: cython.int
        w: KeptWritePtr
        record: KeptRecord
        found: list[KeptRecord] = []
        stable: uint64_t = atomics.load_u64(address(self.core.stable))
        if self.keeps == NULL:
            return found
        for i in range(self.count):
            w = self.keeps[i].oldest
            while w != NULL:
                if w.number >= stable and not w.lost:
                    record = KeptRecord.__new__(KeptRecord)
                    record.write = w
                    record.number = w.number
                    record.channels = self
                    found.append(record)
                w = w.next
        found.sort(key=_number)
        return found

    def flush_before(self, record: KeptRecord) -> KeptFlush:
        """A flush once all records before this one have been written again. They are held."""
        flush: KeptFlush = KeptFlush.__new__(KeptFlush)
        flush.channels = self
        flush.number = record.number
        return flush

    async def let_go(self) -> None:
        """What was kept has been written again. It is still kept, until a flush."""
        await asyncio.gather(*self._on_each(_cmd_let_go))

    def unstable(self) -> bool:
        """A flush is needed before the device may be left to itself."""
        return atomics.load_u64(address(self.core.stable)) < atomics.load_u64(address(self.core.acknowledged))

    async def settle(self) -> bool:
        """Flush, if there is anything to; whether all that was acknowledged is stable then. The caller sees to a
        deadline."""
        for _ in range(SETTLE_TRIES):  # one that is in flight may not cover all
            if not self.unstable():
                return True
            if await self._settle():
                return False
        return not self.unstable()

    def _settle(self) -> asyncio.Future[int]:
        poller: Poller = self.pollers[0]
        return poller.command(_cmd_settle, self.keeps[0], 0, 0, NULL, self)

    async def fail_waiting(self, code: int, before_ns: int = 0) -> None:
        """What waits for room, and was submitted before that time (0: all), ends with errno code."""
        await asyncio.gather(*self._on_each(_cmd_fail, before_ns, code))

    async def close_kept(self) -> int:
        """Give back what is kept; how many records of it were not stable. No I/O is in flight."""
        lost = sum(await asyncio.gather(*self._on_each(_cmd_close)))
        await asyncio.gather(*(poller.ping() for poller in self.pollers))  # no news is on its way any more
        return int(lost)

    def oldest_ns(self) -> int:
        """As BdevChannels.oldest_ns(), of virtiod's own flushes too."""
        i: cython.int
        oldest: int = BdevChannels.oldest_ns(self)
        at: uint64_t
        if self.keeps != NULL:
            for i in range(self.count):
                at = atomics.relaxed_u64(address(self.keeps[i].own.oldest_ns))
                if at and (oldest == 0 or at < oldest):
                    oldest = at
        return oldest

    def kept_counters(self) -> KeptCounters:
        i: cython.int
        k: KeepPtr
        records: uint64_t = 0
        size: uint64_t = 0
        flushes: uint64_t = 0
        if self.keeps != NULL:
            for i in range(self.count):
                k = self.keeps[i]
                records += atomics.load_u32(address(k.n_kept))
                size += atomics.relaxed_u64(address(k.kept_bytes))
                flushes += atomics.relaxed_u64(address(k.own.ops[cast(cython.int, Op.FLUSH)].submitted))
        losses: uint64_t = atomics.load_u64(address(self.core.losses))
        return KeptCounters(records, size, flushes, self.repeated, losses)

    def __dealloc__(self) -> None:
        i: cython.int
        if self.keeps != NULL:
            for i in range(self.count):
                if self.keeps[i] != NULL:
                    free(self.keeps[i].records)
                free(self.keeps[i])
            free(self.keeps)


def _number(record: KeptRecord) -> int:
    return record.number
