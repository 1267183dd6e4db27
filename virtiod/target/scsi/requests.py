"""The embedded target's virtio-scsi request queues (virtio 1.2 §5.6.6.1): from a chain to a LUN's command and back.

Any number of request queues on any pollers serve one host. Requests that are held (delayed, or silenced by a fault)
can be ended by a task management function, or by their LUN's removal: whoever asks for it raises a number in the
host and wakes the pollers, and each queue looks through what it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.signal import SIGKILL
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.core.atomics import (
    vd_clock_ns,
    vd_fetch_add_u64,
    vd_load_ptr,
    vd_load_u32,
    vd_load_u64,
    vd_store_ptr,
    vd_store_u64,
)
from cython.cimports.virtiod.core.linux import kill_self
from cython.cimports.virtiod.core.types import BytePtr, CharPtr, IovPtr, SourcePtr
from cython.cimports.virtiod.target.ring import (
    HELD_FOR_EVER,
    DevRingPtr,
    Held,
    HeldPtr,
    ring_arm,
    ring_collect,
    ring_copy_out,
    ring_hold,
    ring_poll,
    ring_push,
)
from cython.cimports.virtiod.target.scsi.host import (
    MAX_SENSE,
    TMF_ABORT_TASK,
    TMF_I_T_NEXUS_RESET,
    TMF_LOGICAL_UNIT_RESET,
    TMF_QUERY_TASK,
    TMF_QUERY_TASK_SET,
    ScsiHostPtr,
    ScsiLinkPtr,
    TargetHost,
    host_target,
    lun_number,
)
from cython.cimports.virtiod.target.scsi.lun import (
    ANY_OPCODE,
    RESPONSE_OK,
    SCSI_FAULT_DEATH,
    SCSI_FAULT_NO_RESPONSE,
    SCSI_FAULT_RESPONSE,
    SCSI_FAULT_SENSE,
    SCSI_FAULT_SILENCE,
    SCSI_FAULT_STATUS,
    SCSI_FAULT_USED_ID,
    SCSI_FAULT_USED_INDEX,
    STATUS_CHECK_CONDITION,
    STATUS_GOOD,
    LunFaultPtr,
    ScsiTargetPtr,
    ScsiTask,
    ScsiTaskPtr,
    target_lun,
    task_attention,
    task_check,
)
from cython.cimports.virtiod.target.scsi.primary import task_execute
from cython.cimports.virtiod.target.scsi.requests import (
    REQUEST_HEADER,
    RESPONSE_ABORTED,
    RESPONSE_BAD_TARGET,
    RESPONSE_HEADER,
    RESPONSE_RESET,
)
from cython.cimports.virtiod.virtqueue.layout import U32Ptr

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory


# ---- answers ------------------------------------------------------------------------------------


def _split(q: DevRingPtr, n: uint32_t, cut: U32Ptr) -> cython.int:
    """Part the first n bytes of into[] from the data: the segment where data starts, cut what of it is not data."""
    i: uint32_t
    for i in range(q.n_in):
        if q.into[i].iov_len > n or (n == 0 and i):
            q.into[i].iov_base = cython.cast(CharPtr, q.into[i].iov_base) + n
            q.into[i].iov_len -= n
            cut[0] = n
            return cython.cast(cython.int, i)
        n -= cython.cast(uint32_t, q.into[i].iov_len)
    cut[0] = 0
    return -EINVAL if n else cython.cast(cython.int, q.n_in)


def _bytes(v: IovPtr, n: uint32_t) -> uint64_t:
    total: uint64_t = 0
    i: uint32_t
    for i in range(n):
        total += v[i].iov_len
    return total


def _fill_sense(sense: BytePtr, t: ScsiTaskPtr) -> uint32_t:
    """Sense data for t, in fixed or descriptor format (SPC-4 §4.5); its length."""
    if t.descriptor:
        sense[0], sense[1] = 0x72, t.key
        sense[2], sense[3] = cython.cast(uint8_t, t.asc >> 8), cython.cast(uint8_t, t.asc)
        return 8
    sense[0], sense[2], sense[7] = 0x70, t.key, 10
    sense[12], sense[13] = cython.cast(uint8_t, t.asc >> 8), cython.cast(uint8_t, t.asc)
    return 18


def _fill_response(p: BytePtr, t: ScsiTaskPtr, sense_size: uint32_t) -> None:
    """struct virtio_scsi_cmd_resp with all of its sense (§5.6.6.1)."""
    n: uint32_t = 0
    left: uint32_t = cython.cast(uint32_t, t.out_bytes + t.in_bytes - t.moved)
    memset(p + RESPONSE_HEADER, 0, sense_size)
    if t.response == RESPONSE_OK and t.status == STATUS_CHECK_CONDITION:
        n = _fill_sense(p + RESPONSE_HEADER, t)
        if t.sense_length < n:
            memset(p + RESPONSE_HEADER + t.sense_length, 0, n - t.sense_length)
            n = t.sense_length
    memcpy(p, cython.address(n), 4)
    memcpy(p + 4, cython.address(left), 4)
    p[8] = p[9] = 0
    p[10], p[11] = t.status, t.response


def _answer(q: DevRingPtr, t: ScsiTaskPtr, at: uint32_t, cut: uint32_t) -> None:
    """Write the response into what _split kept of into[]: all segments before at, and cut bytes in front of it."""
    response: cython.uchar[264]  # RESPONSE_HEADER + MAX_SENSE
    sense_size: uint32_t = vd_load_u32(cython.address(cython.cast(ScsiLinkPtr, q.device).host.sense_size))
    done: uint32_t = 0
    i: uint32_t
    if at == 1 and cut == 0:  # as drivers do it: a segment of its own
        _fill_response(cython.cast(BytePtr, q.into[0].iov_base), t, sense_size)
        return
    _fill_response(cython.address(response[0]), t, sense_size)
    for i in range(at):
        memcpy(q.into[i].iov_base, cython.address(response[done]), q.into[i].iov_len)
        done += cython.cast(uint32_t, q.into[i].iov_len)
    if cut:
        memcpy(cython.cast(CharPtr, q.into[at].iov_base) - cut, cython.address(response[done]), cut)


# ---- faults -------------------------------------------------------------------------------------


def _hit(f: LunFaultPtr, opcode: uint8_t) -> cython.bint:
    """Is this command one to spoil? Any poller may ask: the counts are atomic."""
    seen: uint64_t
    if f.opcode != ANY_OPCODE and f.opcode != opcode:
        return False
    seen = vd_fetch_add_u64(cython.address(f.seen), 1) + 1
    if seen <= f.after or (f.every and (seen - f.after) % f.every):
        return False
    if f.times and vd_load_u64(cython.address(f.spoiled)) >= f.times:
        return False
    vd_fetch_add_u64(cython.address(f.spoiled), 1)
    return True


def _spoiled(t: ScsiTaskPtr, h: HeldPtr) -> cython.bint:
    """Do what the fault asks for in place of the command; true if it gets no response."""
    f: LunFaultPtr = cython.address(t.lun.fault)
    q: DevRingPtr = t.q
    kind: uint32_t = f.kind
    if kind == SCSI_FAULT_SENSE:
        task_check(t, f.key, f.asc)
        t.sense_length = f.sense_length
        t.descriptor = f.descriptor
    elif kind == SCSI_FAULT_STATUS:
        t.status = f.value
    elif kind == SCSI_FAULT_RESPONSE:
        t.response = f.value
    elif kind == SCSI_FAULT_DEATH:
        kill_self(SIGKILL)
    elif kind == SCSI_FAULT_USED_ID:
        ring_push(q, q.size + 7, 0)
        return True
    elif kind == SCSI_FAULT_USED_INDEX:
        q.used_idx += q.size + 1
        q.source.dirty = 1
        return True
    elif kind == SCSI_FAULT_NO_RESPONSE:
        ring_push(q, h.head, 0)
        return True
    elif kind == SCSI_FAULT_SILENCE:
        h.due_ns = HELD_FOR_EVER
        ring_hold(q, h)
        return True
    return False


# ---- requests -----------------------------------------------------------------------------------


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    """Answer one request. Negative when the front-end broke the ring."""
    header: cython.uchar[274]  # REQUEST_HEADER + MAX_CDB
    link: ScsiLinkPtr = cython.cast(ScsiLinkPtr, q.device)
    host: ScsiHostPtr = link.host
    cdb_size: uint32_t = vd_load_u32(cython.address(host.cdb_size))
    size: uint32_t = RESPONSE_HEADER + vd_load_u32(cython.address(host.sense_size))
    first: uint32_t = 0
    cut: uint32_t = 0
    at: cython.int
    t: ScsiTask
    h: Held
    if ring_collect(q, head) < 0:
        return -EINVAL
    if (
        ring_copy_out(q, cython.address(header[0]), REQUEST_HEADER + cdb_size, cython.address(first))
        < REQUEST_HEADER + cdb_size
    ):
        return -EINVAL
    at = _split(q, size, cython.address(cut))
    if at < 0:
        return -EINVAL
    q.requests += 1
    t.q = q
    t.lun = cython.NULL
    t.first = first
    t.cdb = cython.address(header[REQUEST_HEADER])
    t.into = cython.address(q.into[at])
    t.n_in = q.n_in - at
    t.moved = 0
    t.response = RESPONSE_OK
    t.status = STATUS_GOOD
    t.descriptor = 0
    t.sense_length = MAX_SENSE
    t.in_bytes = _bytes(t.into, t.n_in)
    t.out_bytes = _bytes(cython.address(q.out[first]), q.n_out - first)
    t.target = host_target(host, header)
    h.head = head
    h.due_ns = now
    h.unit = cython.cast(uint64_t, header[1]) << 32 | lun_number(header)
    memcpy(cython.address(h.tag), cython.address(header[8]), 8)
    if t.target == cython.NULL:
        t.response = RESPONSE_BAD_TARGET
    else:
        t.lun = target_lun(t.target, cython.cast(uint32_t, h.unit))
        if vd_load_u32(cython.address(t.target.silent)):
            h.due_ns = HELD_FOR_EVER
            ring_hold(q, cython.address(h))
            return 0
        if t.lun != cython.NULL:
            if t.lun.fault.delay_ns:
                h.due_ns = vd_clock_ns() + t.lun.fault.delay_ns  # now is the round's start, maybe long before it came
            if vd_load_u32(cython.address(t.lun.fault.kind)) and _hit(cython.address(t.lun.fault), t.cdb[0]):
                if _spoiled(cython.address(t), cython.address(h)):
                    return 0
        if t.response == RESPONSE_OK and t.status == 0 and not task_attention(cython.address(t)):
            task_execute(cython.address(t))
    _answer(q, cython.address(t), at, cut)
    h.written = size + (cython.cast(uint32_t, t.moved) if t.in_bytes else 0)
    if h.due_ns > now:
        ring_hold(q, cython.address(h))
    else:
        ring_push(q, head, h.written)
    return 0


# ---- requests that end early --------------------------------------------------------------------


def _concerns(host: ScsiHostPtr, h: HeldPtr) -> cython.bint:
    """Does the task management function that is under way mean this task?"""
    subtype: uint32_t = host.tmf.subtype
    if h.unit >> 32 != host.tmf.target:
        return False
    if subtype == TMF_I_T_NEXUS_RESET:
        return True
    if cython.cast(uint32_t, h.unit) != host.tmf.number:
        return False
    return h.tag == host.tmf.tag or (subtype != TMF_ABORT_TASK and subtype != TMF_QUERY_TASK)


def _end_held(q: DevRingPtr, h: HeldPtr, response: uint8_t) -> None:
    """Complete a held request with this response. Its chain is walked again: it is as little trusted as before."""
    size: uint32_t = RESPONSE_HEADER + vd_load_u32(cython.address(cython.cast(ScsiLinkPtr, q.device).host.sense_size))
    cut: uint32_t = 0
    at: cython.int
    t: ScsiTask
    memset(cython.address(t), 0, cython.sizeof(ScsiTask))
    t.response = response
    if ring_collect(q, h.head) < 0:
        return
    at = _split(q, size, cython.address(cut))
    if at < 0:
        return
    _answer(q, cython.address(t), at, cut)
    ring_push(q, h.head, size)


def _end_concerned(q: DevRingPtr, link: ScsiLinkPtr) -> cython.int:
    """Do this queue's part of the task management function."""
    host: ScsiHostPtr = link.host
    subtype: uint32_t = host.tmf.subtype
    reset: cython.bint = subtype == TMF_I_T_NEXUS_RESET or subtype == TMF_LOGICAL_UNIT_RESET
    keep: cython.bint = subtype == TMF_QUERY_TASK or subtype == TMF_QUERY_TASK_SET
    i: uint32_t
    kept: uint32_t = 0
    n: cython.int = 0
    for i in range(q.n_held):
        if _concerns(host, cython.address(q.held[i])):
            n += 1
            if not keep:
                _end_held(q, cython.address(q.held[i]), RESPONSE_RESET if reset else RESPONSE_ABORTED)
                continue
        q.held[kept] = q.held[i]
        kept += 1
    q.n_held = kept
    vd_fetch_add_u64(cython.address(host.tmf.matched), n)
    return n


def _end_removed(q: DevRingPtr, link: ScsiLinkPtr) -> cython.int:
    """End what is held for LUNs that are gone."""
    i: uint32_t
    kept: uint32_t = 0
    target: ScsiTargetPtr
    for i in range(q.n_held):
        target = cython.cast(ScsiTargetPtr, vd_load_ptr(cython.address(link.host.targets[q.held[i].unit >> 32])))
        if target == cython.NULL or target_lun(target, cython.cast(uint32_t, q.held[i].unit)) == cython.NULL:
            _end_held(q, cython.address(q.held[i]), RESPONSE_ABORTED)
            continue
        q.held[kept] = q.held[i]
        kept += 1
    i = q.n_held - kept
    q.n_held = kept
    return cython.cast(cython.int, i)


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cython.cast(DevRingPtr, s)
    link: ScsiLinkPtr = cython.cast(ScsiLinkPtr, q.device)
    n: cython.int = 0
    sequence: uint64_t = vd_load_u64(cython.address(link.host.tmf.sequence))
    purge: uint64_t = vd_load_u64(cython.address(link.host.purge))
    if sequence != link.seen:
        n += _end_concerned(q, link)
        if s.dirty:  # what it ended is seen before its own end
            s.dirty = 0
            s.flush(s)
        vd_store_u64(cython.address(link.seen), sequence)
    if purge != link.purged:
        n += _end_removed(q, link)
        link.purged = purge
    return n + ring_poll(s, now)


def _arm(s: SourcePtr) -> cython.bint:
    link: ScsiLinkPtr = cython.cast(ScsiLinkPtr, cython.cast(DevRingPtr, s).device)
    found: cython.bint = ring_arm(s)
    if vd_load_u64(cython.address(link.host.tmf.sequence)) != link.seen:
        return True
    return found or vd_load_u64(cython.address(link.host.purge)) != link.purged


# ---- control plane ------------------------------------------------------------------------------


class ScsiRing(DeviceRing):
    """A request queue of a virtio-scsi device; index counts from 0."""

    link: ScsiLinkPtr

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, host: TargetHost, index: int) -> None:
        DeviceRing.__init__(self, poller, memory, setup, host)
        self.link = cython.address(host.host.links[index])
        self.link.seen = host.host.tmf.sequence
        self.link.purged = host.host.purge
        self.q.serve = _serve
        self.q.device = self.link
        self.q.source.poll = _poll
        self.q.source.arm = _arm

    async def start(self) -> None:
        """Serve the ring."""
        await DeviceRing.start(self)
        vd_store_ptr(cython.address(self.link.poller), self.poller.core)

    async def stop(self) -> int:
        """Serve it no more; returns the next avail index. Requests that are held back are forgotten."""
        base: int = await DeviceRing.stop(self)
        vd_store_ptr(cython.address(self.link.poller), cython.NULL)
        return base
