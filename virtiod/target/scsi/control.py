"""The embedded target's virtio-scsi control queue (virtio 1.2 §5.6.6.2) and event queue (§5.6.6.3).

A task management function ends when every request queue has dealt with it; the next one waits until then. Events that
find no buffer are dropped, and the next buffer tells that some were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.core.atomics import (
    vd_fetch_or_u32,
    vd_load_ptr,
    vd_load_u32,
    vd_load_u64,
    vd_store_u32,
    vd_store_u64,
)
from cython.cimports.virtiod.core.types import BytePtr, CommandPtr, PollerPtr, SourcePtr
from cython.cimports.virtiod.target.ring import (
    DevRingPtr,
    ring_arm,
    ring_break,
    ring_collect,
    ring_copy_out,
    ring_poll,
    ring_push,
    ring_put,
    ring_take,
)
from cython.cimports.virtiod.target.scsi.control import (
    AN_BYTES,
    CONTROL_AN_QUERY,
    CONTROL_AN_SUBSCRIBE,
    CONTROL_BAD_TARGET,
    CONTROL_COMPLETE,
    CONTROL_INCORRECT_LUN,
    CONTROL_NORMAL,
    CONTROL_REJECTED,
    CONTROL_REJECTS,
    CONTROL_SILENT,
    CONTROL_SUCCEEDED,
    CONTROL_TMF,
    EVENT_BYTES,
    EVENTS_MISSED,
    TMF_BYTES,
    ScsiControl,
    ScsiControlPtr,
    ScsiEvents,
    ScsiEventsPtr,
)
from cython.cimports.virtiod.target.scsi.host import (
    MAX_QUEUES,
    TMF_CLEAR_ACA,
    TMF_I_T_NEXUS_RESET,
    TMF_LOGICAL_UNIT_RESET,
    TMF_QUERY_TASK,
    TMF_QUERY_TASK_SET,
    ScsiHostPtr,
    TargetHost,
    host_target,
    host_wake,
    lun_number,
)
from cython.cimports.virtiod.target.scsi.lun import ATTENTION_RESET, ScsiLunPtr, ScsiTargetPtr, target_lun
from cython.cimports.virtiod.virtqueue.layout import U32Ptr

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory

MODES = {"": CONTROL_NORMAL, "silence": CONTROL_SILENT, "reject": CONTROL_REJECTS}


# ---- control ------------------------------------------------------------------------------------


def _respond(q: DevRingPtr, head: uint16_t, response: uint8_t) -> None:
    """Complete a task management function. Its chain is walked again: it may have waited meanwhile."""
    if ring_collect(q, head) < 0 or not ring_put(q, cython.address(response), 1):
        ring_break(q)
    else:
        ring_push(q, head, 1)


def _begin(q: DevRingPtr, head: uint16_t, request: BytePtr) -> cython.int:
    """Have the request queues look for the tasks that a function means."""
    c: ScsiControlPtr = cython.cast(ScsiControlPtr, q.device)
    host: ScsiHostPtr = c.host
    subtype: uint32_t = cython.cast(U32Ptr, request)[1]
    target: ScsiTargetPtr = host_target(host, request + 8)
    lun: ScsiLunPtr
    i: uint32_t
    if c.mode == CONTROL_SILENT:
        return 0
    if c.mode == CONTROL_REJECTS or subtype == TMF_CLEAR_ACA or subtype > TMF_QUERY_TASK_SET:
        _respond(q, head, CONTROL_REJECTED)
        return 0
    if target == cython.NULL:
        _respond(q, head, CONTROL_BAD_TARGET)
        return 0
    lun = target_lun(target, lun_number(request + 8))
    if lun == cython.NULL and subtype != TMF_I_T_NEXUS_RESET:
        _respond(q, head, CONTROL_INCORRECT_LUN)
        return 0
    if subtype == TMF_LOGICAL_UNIT_RESET:
        vd_fetch_or_u32(cython.address(lun.attention), ATTENTION_RESET)
    elif subtype == TMF_I_T_NEXUS_RESET:
        for i in range(vd_load_u32(cython.address(target.n))):
            lun = cython.cast(ScsiLunPtr, vd_load_ptr(cython.address(target.luns[i])))
            if lun != cython.NULL:
                vd_fetch_or_u32(cython.address(lun.attention), ATTENTION_RESET)
    host.tmf.subtype = subtype
    host.tmf.target = request[9]
    host.tmf.number = lun_number(request + 8)
    memcpy(cython.address(host.tmf.tag), request + 16, 8)
    host.tmf.matched = 0
    c.head = head
    c.pending = 1
    vd_store_u64(cython.address(host.tmf.sequence), host.tmf.sequence + 1)  # release: the rest of tmf is there
    host_wake(host)
    return 1


def _finished(host: ScsiHostPtr) -> cython.bint:
    """Have all request queues that run dealt with it?"""
    i: uint32_t
    for i in range(cython.cast(uint32_t, MAX_QUEUES)):
        if vd_load_ptr(cython.address(host.links[i].poller)) != cython.NULL:
            if vd_load_u64(cython.address(host.links[i].seen)) != host.tmf.sequence:
                return False
    return True


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    request: cython.uchar[24]
    answer: cython.uchar[5]  # event_actual: none, response
    i: uint32_t = 0
    n: uint64_t
    kind: uint32_t
    if ring_collect(q, head) < 0:
        return -EINVAL
    n = ring_copy_out(q, cython.address(request[0]), TMF_BYTES, cython.address(i))
    if n < 4:
        return -EINVAL
    memcpy(cython.address(kind), cython.address(request[0]), 4)
    q.requests += 1
    if kind == CONTROL_TMF:
        if n < TMF_BYTES or q.n_in == 0:
            return -EINVAL
        return _begin(q, head, cython.address(request[0]))
    if kind == CONTROL_AN_QUERY or kind == CONTROL_AN_SUBSCRIBE:
        for i in range(5):
            answer[i] = 0
        if host_target(cython.cast(ScsiControlPtr, q.device).host, cython.address(request[4])) == cython.NULL:
            answer[4] = CONTROL_BAD_TARGET
        if n < AN_BYTES or not ring_put(q, cython.address(answer[0]), 5):
            return -EINVAL
        ring_push(q, head, 5)
        return 0
    ring_push(q, head, 0)  # nobody knows where its response would be
    return 0


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cython.cast(DevRingPtr, s)
    c: ScsiControlPtr = cython.cast(ScsiControlPtr, q.device)
    response: uint8_t = CONTROL_COMPLETE
    if c.pending:
        if not _finished(c.host):
            return 0
        c.pending = 0
        if c.host.tmf.subtype == TMF_QUERY_TASK or c.host.tmf.subtype == TMF_QUERY_TASK_SET:
            if vd_load_u64(cython.address(c.host.tmf.matched)):
                response = CONTROL_SUCCEEDED
        _respond(q, c.head, response)
        return 1
    return ring_poll(s, now)


def _arm(s: SourcePtr) -> cython.bint:
    found: cython.bint = ring_arm(s)
    return found or cython.cast(ScsiControlPtr, cython.cast(DevRingPtr, s).device).pending


class ControlRing(DeviceRing):
    """The control queue of a virtio-scsi device. mode: one of MODES."""

    control: ScsiControl

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, host: TargetHost, mode: str) -> None:
        DeviceRing.__init__(self, poller, memory, setup, host)
        self.control.host = host.host
        self.q.device = cython.address(self.control)
        self.q.serve = _serve
        self.q.source.poll = _poll
        self.q.source.arm = _arm
        self.mode(mode)

    def mode(self, mode: str) -> None:
        """How task management functions are met from now on."""
        vd_store_u32(cython.address(self.control.mode), MODES[mode])


# ---- events -------------------------------------------------------------------------------------


def _tell(q: DevRingPtr, event: uint32_t, lun: uint64_t, reason: uint32_t) -> cython.bint:
    """Fill a buffer with an event; false if there is none."""
    data: cython.uchar[16]
    if not ring_take(q):
        return False
    memcpy(cython.address(data[0]), cython.address(event), 4)
    memcpy(cython.address(data[4]), cython.address(lun), 8)
    memcpy(cython.address(data[12]), cython.address(reason), 4)
    if not ring_put(q, cython.address(data[0]), EVENT_BYTES):
        ring_break(q)
        return False
    ring_push(q, q.taken, EVENT_BYTES)
    q.requests += 1
    return True


def _poll_events(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cython.cast(DevRingPtr, s)
    e: ScsiEventsPtr = cython.cast(ScsiEventsPtr, q.device)
    if not e.missed or not _tell(q, EVENTS_MISSED, 0, 0):
        return 0
    e.missed = 0
    return 1


def _arm_events(s: SourcePtr) -> cython.bint:
    """Buffers that wait are no reason to stay awake, unless one is missing."""
    return cython.cast(ScsiEventsPtr, cython.cast(DevRingPtr, s).device).missed and ring_arm(s)


def _cmd_event(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevRingPtr = cython.cast(DevRingPtr, c.ctx)
    e: ScsiEventsPtr = cython.cast(ScsiEventsPtr, q.device)
    event: uint32_t = cython.cast(uint32_t, c.arg)
    if e.missed:
        event |= EVENTS_MISSED
    e.missed = not _tell(q, event, cython.cast(uint64_t, c.arg2), cython.cast(uint32_t, c.arg >> 32))
    return e.missed


class EventRing(DeviceRing):
    """The event queue of a virtio-scsi device."""

    events: ScsiEvents

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup) -> None:
        DeviceRing.__init__(self, poller, memory, setup, None)
        self.q.device = cython.address(self.events)
        self.q.source.poll = _poll_events
        self.q.source.arm = _arm_events

    async def tell(self, event: int, lun: bytes, reason: int) -> bool:
        """Report an event; false if there was no buffer for it."""
        where: int = int.from_bytes(lun, "little", signed=True)
        return not await self.poller.command(_cmd_event, self.q, event | reason << 32, where, cython.NULL, self)
