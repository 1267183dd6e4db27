"""The embedded target's virtio-scsi control queue (virtio 1.2 §5.6.6.2) and event queue (§5.6.6.3).

A task management function ends when every request queue has dealt with it; the next one waits until then. Events that
find no buffer are dropped, and the next buffer tells that some were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CommandPtr, PollerPtr, SourcePtr
from cython.cimports.virtiod.target import ring
from cython.cimports.virtiod.target.ring import DevRingPtr
from cython.cimports.virtiod.target.scsi.control import ScsiControl, ScsiControlPtr, ScsiEvents, ScsiEventsPtr, TmfMode
from cython.cimports.virtiod.target.scsi.host import (
    MAX_QUEUES,
    ScsiHostPtr,
    TargetHost,
    host_target,
    host_wake,
    lun_number,
)
from cython.cimports.virtiod.target.scsi.lun import Attention, ScsiLunPtr, ScsiTargetPtr, target_lun
from cython.cimports.virtiod.virtio.scsi import (
    AnReq,
    AnReqPtr,
    AnResp,
    ControlType,
    Event,
    EventFlag,
    Response,
    TmfReq,
    TmfReqPtr,
    TmfType,
)

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory

MODES = {"": TmfMode.NORMAL, "silence": TmfMode.SILENT, "reject": TmfMode.REJECTS}


# ---- control ------------------------------------------------------------------------------------


def _respond(q: DevRingPtr, head: uint16_t, response: uint8_t) -> None:
    """Complete a task management function. Its chain is walked again: it may have waited meanwhile."""
    if ring.collect(q, head) < 0 or not ring.put(q, address(response), 1):
        ring.give_up(q)
    else:
        ring.push(q, head, 1)


def _begin(q: DevRingPtr, head: uint16_t, request: TmfReqPtr) -> cython.int:
    """Have the request queues look for the tasks that a function means."""
    c: ScsiControlPtr = cast(ScsiControlPtr, q.device)
    host: ScsiHostPtr = c.host
    subtype: uint32_t = request.subtype
    where: BytePtr = cast(BytePtr, address(request.lun))
    target: ScsiTargetPtr = host_target(host, where)
    lun: ScsiLunPtr
    i: uint32_t
    if c.mode == TmfMode.SILENT:
        return 0
    if c.mode == TmfMode.REJECTS or subtype == TmfType.CLEAR_ACA or subtype > TmfType.QUERY_TASK_SET:
        _respond(q, head, Response.FUNCTION_REJECTED)
        return 0
    if target == NULL:
        _respond(q, head, Response.BAD_TARGET)
        return 0
    lun = target_lun(target, lun_number(where))
    if lun == NULL and subtype != TmfType.I_T_NEXUS_RESET:
        _respond(q, head, Response.INCORRECT_LUN)
        return 0
    if subtype == TmfType.LOGICAL_UNIT_RESET:
        atomics.fetch_or_u32(address(lun.attention), Attention.RESET)
    elif subtype == TmfType.I_T_NEXUS_RESET:
        for i in range(atomics.load_u32(address(target.n))):
            lun = cast(ScsiLunPtr, atomics.load_ptr(address(target.luns[i])))
            if lun != NULL:
                atomics.fetch_or_u32(address(lun.attention), Attention.RESET)
    host.tmf.subtype = subtype
    host.tmf.target = where[1]
    host.tmf.number = lun_number(where)
    host.tmf.tag = request.id
    host.tmf.matched = 0
    c.head = head
    c.pending = 1
    atomics.store_u64(address(host.tmf.sequence), host.tmf.sequence + 1)  # release: the rest of tmf is there
    host_wake(host)
    return 1


def _finished(host: ScsiHostPtr) -> cython.bint:
    """Whether all request queues that run have dealt with it."""
    i: uint32_t
    runs: cython.bint
    for i in range(cast(uint32_t, MAX_QUEUES)):
        runs = atomics.load_ptr(address(host.links[i].poller)) != NULL
        if runs and atomics.load_u64(address(host.links[i].seen)) != host.tmf.sequence:
            return False
    return True


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    request: TmfReq  # the longest
    other: AnReqPtr = cast(AnReqPtr, address(request))
    answer: AnResp
    first: uint32_t = 0
    n: uint64_t
    if ring.collect(q, head) < 0:
        return -EINVAL
    n = ring.copy_out(q, address(request), sizeof(TmfReq), address(first))
    if n < sizeof(request.type):
        return -EINVAL
    q.requests += 1
    if request.type == ControlType.TMF:
        if n < sizeof(TmfReq) or q.n_in == 0:
            return -EINVAL
        return _begin(q, head, address(request))
    if request.type == ControlType.AN_QUERY or request.type == ControlType.AN_SUBSCRIBE:
        answer.event_actual = 0
        answer.response = Response.OK
        if host_target(cast(ScsiControlPtr, q.device).host, cast(BytePtr, address(other.lun))) == NULL:
            answer.response = Response.BAD_TARGET
        if n < sizeof(AnReq) or not ring.put(q, cast(BytePtr, address(answer)), sizeof(AnResp)):
            return -EINVAL
        ring.push(q, head, sizeof(AnResp))
        return 0
    ring.push(q, head, 0)  # nobody knows where its response would be
    return 0


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cast(DevRingPtr, s)
    c: ScsiControlPtr = cast(ScsiControlPtr, q.device)
    response: uint8_t = Response.OK
    query: cython.bint
    if c.pending:
        if not _finished(c.host):
            return 0
        c.pending = 0
        query = c.host.tmf.subtype == TmfType.QUERY_TASK or c.host.tmf.subtype == TmfType.QUERY_TASK_SET
        if query and atomics.load_u64(address(c.host.tmf.matched)):
            response = Response.FUNCTION_SUCCEEDED
        _respond(q, c.head, response)
        return 1
    return ring.poll(s, now)


def _arm(s: SourcePtr) -> cython.bint:
    found: cython.bint = ring.arm(s)
    return found or cast(ScsiControlPtr, cast(DevRingPtr, s).device).pending


class ControlRing(DeviceRing):
    """The control queue of a virtio-scsi device. mode: one of MODES."""

    control: ScsiControl

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, host: TargetHost, mode: str) -> None:
        DeviceRing.__init__(self, poller, memory, setup, host)
        self.control.host = host.host
        self.q.device = address(self.control)
        self.q.serve = _serve
        self.q.source.poll = _poll
        self.q.source.arm = _arm
        self.mode(mode)

    def mode(self, mode: str) -> None:
        """How task management functions are met from now on."""
        atomics.store_u32(address(self.control.mode), MODES[mode])


# ---- events -------------------------------------------------------------------------------------


def _tell(q: DevRingPtr, event: uint32_t, lun: uint64_t, reason: uint32_t) -> cython.bint:
    """Fill a buffer with an event; false if there is none."""
    told: Event
    if not ring.take(q):
        return False
    told.event = event
    told.lun = lun
    told.reason = reason
    if not ring.put(q, cast(BytePtr, address(told)), sizeof(Event)):
        ring.give_up(q)
        return False
    ring.push(q, q.taken, sizeof(Event))
    q.requests += 1
    return True


def _poll_events(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cast(DevRingPtr, s)
    e: ScsiEventsPtr = cast(ScsiEventsPtr, q.device)
    if not e.missed or not _tell(q, EventFlag.EVENTS_MISSED, 0, 0):
        return 0
    e.missed = 0
    return 1


def _arm_events(s: SourcePtr) -> cython.bint:
    """Buffers that wait are no reason to stay awake, unless one is missing."""
    return cast(ScsiEventsPtr, cast(DevRingPtr, s).device).missed and ring.arm(s)


def _cmd_event(p: PollerPtr, c: CommandPtr) -> int64_t:
    q: DevRingPtr = cast(DevRingPtr, c.ctx)
    e: ScsiEventsPtr = cast(ScsiEventsPtr, q.device)
    event: uint32_t = cast(uint32_t, c.arg)
    if e.missed:
        event |= EventFlag.EVENTS_MISSED
    e.missed = not _tell(q, event, cast(uint64_t, c.arg2), cast(uint32_t, c.arg >> 32))
    return e.missed


class EventRing(DeviceRing):
    """The event queue of a virtio-scsi device."""

    events: ScsiEvents

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup) -> None:
        DeviceRing.__init__(self, poller, memory, setup, None)
        self.q.device = address(self.events)
        self.q.source.poll = _poll_events
        self.q.source.arm = _arm_events

    async def tell(self, event: int, lun: bytes, reason: int) -> bool:
        """Report an event; false if there was no buffer for it."""
        where: int = int.from_bytes(lun, "little", signed=True)
        return not await self.poller.command(_cmd_event, self.q, event | reason << 32, where, NULL, self)
