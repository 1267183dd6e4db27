"""The buffers that an NBD connection's requests hold, and its slots.

A request takes all of its buffers or none. Connections of a poller take them in the order in which they began to wait.
Only while some wait, a client that has stopped within a transfer for STALL_NS is cut off.
"""

from __future__ import annotations

import cython
from cython import NULL
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.virtiod.exports.nbd import state
from cython.cimports.virtiod.exports.nbd.state import ConnPtr, SharePtr, SlotPtr
from cython.cimports.virtiod.poller import buffers

HELD_MAX = cython.declare(uint64_t, 16 << 20)  # a single longer request is taken when nothing else is held
FEW_BYTES = cython.declare(uint64_t, (state.FEW_SEGMENTS - 1) * buffers.LARGE)
STALL_NS = cython.declare(uint64_t, 5_000_000_000)


def take_buffers(c: ConnPtr, slot: SlotPtr) -> cython.bint:
    """Takes buffers for slot.request; false if it has to wait, for its own connection or in the queue of all."""
    length: uint64_t = slot.request.length
    share: SharePtr = c.share
    if c.held and c.held + length > HELD_MAX:
        return False
    if length > FEW_BYTES and c.n_large == 0:
        return False
    if c.channel.holding != NULL and not buffers.fair(share.pool, length, c.channel.holding):
        leave_queue(c)  # for its own device's buffers; it must not hold up those of others
        return False
    if share.first != NULL and share.first != c:
        _wait(c)
        return False
    slot.io.iov = slot.few
    slot.n_buffers = state.FEW_SEGMENTS
    if length > FEW_BYTES:
        slot.io.iov = c.large[c.n_large - 1]
        slot.n_buffers = state.MANY_SEGMENTS
    slot.n_buffers = buffers.get(share.pool, length, slot.io.iov, slot.n_buffers)
    if slot.n_buffers == 0:
        _wait(c)
        return False
    if length > FEW_BYTES:
        c.n_large -= 1
        slot.large = 1
    c.held += length
    if c.channel.holding != NULL:
        buffers.count(share.pool, slot.io.iov, slot.n_buffers, c.channel.holding, 1)
    leave_queue(c)
    return True


def _wait(c: ConnPtr) -> None:
    share: SharePtr = c.share
    if c.waiting:
        return
    c.waiting = 1
    c.next_waiting = NULL
    if share.first == NULL:
        share.first = c
        share.waiting_since = c.source.poller.now
    else:
        share.last.next_waiting = c
    share.last = c


def leave_queue(c: ConnPtr) -> None:
    share: SharePtr = c.share
    before: ConnPtr = share.first
    if not c.waiting:
        return
    c.waiting = 0
    if before == c:
        share.first = c.next_waiting
        share.waiting_since = c.source.poller.now
        return
    while before.next_waiting != c:
        before = before.next_waiting
    before.next_waiting = c.next_waiting
    if share.last == c:
        share.last = before


def give_back(slot: SlotPtr) -> None:
    """slot needs its buffers no longer. Those that an old device may still use go into quarantine."""
    c: ConnPtr = slot.conn
    if slot.n_buffers == 0:
        return
    if slot.io.epoch and c.channel.holding != NULL:
        buffers.quarantine(c.share.pool, slot.io.iov, slot.n_buffers, slot.io.epoch, c.channel.holding)
    else:
        buffers.put(c.share.pool, slot.io.iov, slot.n_buffers)
    hand_over(slot)


def hand_over(slot: SlotPtr) -> None:
    """Its buffers are not its own any more."""
    c: ConnPtr = slot.conn
    if c.channel.holding != NULL:
        buffers.count(c.share.pool, slot.io.iov, slot.n_buffers, c.channel.holding, -1)
    slot.io.epoch = 0
    slot.n_buffers = 0
    c.held -= slot.request.length
    if slot.large:
        slot.large = 0
        c.large[c.n_large] = slot.io.iov
        c.n_large += 1


def release(slot: SlotPtr) -> None:
    c: ConnPtr = slot.conn
    give_back(slot)
    c.free[c.n_free] = slot
    c.n_free += 1


def stalled(c: ConnPtr, now: uint64_t) -> cython.bint:
    """Whether others wait for buffers while this client has stopped within a transfer that holds some."""
    share: SharePtr = c.share
    if share.first == NULL or now - share.waiting_since < STALL_NS or c.held == 0:
        return False
    if c.filling != NULL and now - c.fill_since > STALL_NS:
        return True
    return c.blocked and now - c.out_since > STALL_NS
