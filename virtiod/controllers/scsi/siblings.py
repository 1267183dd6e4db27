"""A unit tells once that it was reset, on any queue. A flush on another queue may be answered later and taken earlier.

So a flush that was done counts only when everything that the other queues had been answered by then was judged, and the
unit is not in doubt. The others' pollers are asked to take their answers; meanwhile the unit gets TEST UNIT READY in
place of the flush. A queue without requests in flight has nothing to be heard.
"""

from __future__ import annotations

import cython
from cython import NULL, address, cast
from cython.cimports.libc.errno import ETIMEDOUT
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.virtiod.bdev import identity
from cython.cimports.virtiod.controllers.scsi import result
from cython.cimports.virtiod.controllers.scsi.port import PortPtr, SiblingPtr, TagPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BdevCorePtr, MessagePtr, PollerPtr
from cython.cimports.virtiod.poller import rounds
from cython.cimports.virtiod.virtqueue import queue, requests
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, SlotPtr

PAUSE_NS = cython.declare(uint64_t, 20_000)  # before it is looked whether all were heard


def confirm(q: IoQueuePtr, slot: uint32_t) -> cython.int:
    port: PortPtr = cast(PortPtr, q.kind)
    tag: TagPtr = address(port.tags[slot])
    s: SlotPtr = address(q.slots[slot])
    b: BdevCorePtr = s.io.channel.bdev
    if port.n_siblings == 0:
        return 0
    if not tag.confirming:
        port.round += 1
        tag.round = port.round
        tag.doubts = atomics.load_u64(address(b.identity_doubts))
        tag.confirming = 1
    if not _all_heard(port, tag.round):
        return result.later(q, slot, PAUSE_NS, -ETIMEDOUT)
    tag.confirming = 0
    if tag.doubts != atomics.load_u64(address(b.identity_doubts)) or (s.command == NULL and identity.in_doubt(b)):
        # what it flushed may have been lost before
        return result.later(q, slot, 0, -ETIMEDOUT)
    return 0


def forget(q: IoQueuePtr, slot: uint32_t, ret: cython.int) -> cython.int:
    if ret != queue.RESULT_RETRY:
        cast(PortPtr, q.kind).tags[slot].confirming = 0
    return ret


def _all_heard(port: PortPtr, round: uint64_t) -> cython.bint:
    """Whether all answers of before that round were judged; asks for those that were not."""
    other: SiblingPtr
    all: cython.bint = True
    i: uint32_t
    for i in range(port.n_siblings):
        other = address(port.siblings[i])
        if atomics.load_u64(address(other.heard)) >= round or not atomics.load_u32(address(other.queue.n_in_flight)):
            continue
        all = False
        if not atomics.load_u8(address(other.under_way)):
            _ask(port, other)
    return all


def _ask(port: PortPtr, other: SiblingPtr) -> None:
    other.asked = port.round
    other.msg.run = _heard
    atomics.store_u8(address(other.under_way), 1)
    rounds.push(other.queue.poller, address(other.msg))


def _heard(m: MessagePtr, p: PollerPtr) -> None:
    """On the other queue's poller: takes what it was answered by now."""
    other: SiblingPtr = cast(SiblingPtr, m)
    i: uint32_t = 0
    if not other.queue.stopped or other.queue.held:  # else the flush waits, and is done again when the device is back
        while i < other.queue.vq.size and requests.poll(address(other.queue.source), p.now):
            i += 1
        atomics.store_u64(address(other.heard), other.asked)
    atomics.store_u8(address(other.under_way), 0)
