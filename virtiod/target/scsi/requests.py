"""The embedded target's virtio-scsi request queues (virtio 1.2 §5.6.6.1): from a chain to a LUN's command and back.

Any number of request queues on any pollers serve one host. Requests that are held (delayed, or silenced by a fault)
can be ended by a task management function, or by their LUN's removal: whoever asks for it raises a number in the
host and wakes the pollers, and each queue looks through what it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython import NULL, address, cast, sizeof
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.virtiod.core import atomics, clock
from cython.cimports.virtiod.core.types import BytePtr, IovPtr, SourcePtr
from cython.cimports.virtiod.scsi.spec import Status
from cython.cimports.virtiod.target import ring
from cython.cimports.virtiod.target.ring import DevRingPtr, Held, HeldPtr
from cython.cimports.virtiod.target.scsi import faults, primary, response, task
from cython.cimports.virtiod.target.scsi.host import (
    MAX_REQUEST,
    ScsiHostPtr,
    ScsiLinkPtr,
    TargetHost,
    host_target,
    lun_number,
)
from cython.cimports.virtiod.target.scsi.lun import ScsiTargetPtr, target_lun
from cython.cimports.virtiod.target.scsi.task import ScsiTask
from cython.cimports.virtiod.virtio.scsi import CMD_HEADER, RESP_HEADER, SENSE_ROOM, CmdReqPtr, Response, TmfType

from virtiod.target.ring import DeviceRing

if TYPE_CHECKING:
    from virtiod.poller.poller import Poller
    from virtiod.target.interface import QueueSetup
    from virtiod.target.ring import TargetMemory


# ---- requests -----------------------------------------------------------------------------------


def _bytes(v: IovPtr, n: uint32_t) -> uint64_t:
    total: uint64_t = 0
    i: uint32_t
    for i in range(n):
        total += v[i].iov_len
    return total


def _serve(q: DevRingPtr, head: uint16_t, now: uint64_t) -> cython.int:
    """Answer one request. Negative when the front-end broke the ring."""
    header: cython.uchar[MAX_REQUEST]
    req: CmdReqPtr = cast(CmdReqPtr, address(header[0]))
    lun: BytePtr = cast(BytePtr, address(req.lun))
    link: ScsiLinkPtr = cast(ScsiLinkPtr, q.device)
    host: ScsiHostPtr = link.host
    cdb_size: uint32_t = atomics.load_u32(address(host.cdb_size))
    size: uint32_t = RESP_HEADER + atomics.load_u32(address(host.sense_size))
    first: uint32_t = 0
    cut: uint32_t = 0
    at: cython.int
    hit: cython.bint
    t: ScsiTask
    h: Held
    if ring.collect(q, head) < 0:
        return -EINVAL
    if ring.copy_out(q, address(header[0]), CMD_HEADER + cdb_size, address(first)) < CMD_HEADER + cdb_size:
        return -EINVAL
    at = response.part(q, size, address(cut))
    if at < 0:
        return -EINVAL
    q.requests += 1
    t.q = q
    t.lun = NULL
    t.first = first
    t.cdb = address(req.cdb[0])
    t.into = address(q.into[at])
    t.n_in = q.n_in - at
    t.moved = 0
    t.response = Response.OK
    t.status = Status.GOOD
    t.descriptor = 0
    t.deferred = 0
    t.sense_length = SENSE_ROOM
    t.in_bytes = _bytes(t.into, t.n_in)
    t.out_bytes = _bytes(address(q.out[first]), q.n_out - first)
    t.target = host_target(host, lun)
    h.head = head
    h.due_ns = now
    h.unit = cast(uint64_t, lun[1]) << 32 | lun_number(lun)
    h.tag = req.id
    if t.target == NULL:
        t.response = Response.BAD_TARGET
    else:
        t.lun = target_lun(t.target, cast(uint32_t, h.unit))
        if atomics.load_u32(address(t.target.silent)):
            h.due_ns = ring.HELD_FOR_EVER
            ring.hold(q, address(h))
            return 0
        if t.lun != NULL:
            if t.lun.fault.delay_ns:
                h.due_ns = clock.now_ns() + t.lun.fault.delay_ns  # now is the round's start, maybe long before it came
            hit = atomics.load_u32(address(t.lun.fault.kind)) and faults.hit(address(t.lun.fault), t.cdb[0])
            if hit and faults.spoil(address(t), address(h)):
                return 0
        if t.response == Response.OK and t.status == 0 and not task.attention(address(t)):
            primary.execute(address(t))
    response.write(q, address(t), at, cut)
    h.written = size + (cast(uint32_t, t.moved) if t.in_bytes else 0)
    if h.due_ns > now:
        ring.hold(q, address(h))
    else:
        ring.push(q, head, h.written)
    return 0


# ---- requests that end early --------------------------------------------------------------------


def _concerns(host: ScsiHostPtr, h: HeldPtr) -> cython.bint:
    """Does the task management function that is under way mean this task?"""
    subtype: uint32_t = host.tmf.subtype
    if h.unit >> 32 != host.tmf.target:
        return False
    if subtype == TmfType.I_T_NEXUS_RESET:
        return True
    if cast(uint32_t, h.unit) != host.tmf.number:
        return False
    return h.tag == host.tmf.tag or (subtype != TmfType.ABORT_TASK and subtype != TmfType.QUERY_TASK)


def _end_held(q: DevRingPtr, h: HeldPtr, why: uint8_t) -> None:
    """Complete a held request with this response. Its chain is walked again: it is as little trusted as before."""
    size: uint32_t = RESP_HEADER + atomics.load_u32(address(cast(ScsiLinkPtr, q.device).host.sense_size))
    cut: uint32_t = 0
    at: cython.int
    t: ScsiTask
    memset(address(t), 0, sizeof(ScsiTask))
    t.response = why
    if ring.collect(q, h.head) < 0:
        return
    at = response.part(q, size, address(cut))
    if at < 0:
        return
    response.write(q, address(t), at, cut)
    ring.push(q, h.head, size)


def _end_concerned(q: DevRingPtr, link: ScsiLinkPtr) -> cython.int:
    """Do this queue's part of the task management function."""
    host: ScsiHostPtr = link.host
    subtype: uint32_t = host.tmf.subtype
    reset: cython.bint = subtype == TmfType.I_T_NEXUS_RESET or subtype == TmfType.LOGICAL_UNIT_RESET
    keep: cython.bint = subtype == TmfType.QUERY_TASK or subtype == TmfType.QUERY_TASK_SET
    i: uint32_t
    kept: uint32_t = 0
    n: cython.int = 0
    for i in range(q.n_held):
        if _concerns(host, address(q.held[i])):
            n += 1
            if not keep:
                _end_held(q, address(q.held[i]), Response.RESET if reset else Response.ABORTED)
                continue
        q.held[kept] = q.held[i]
        kept += 1
    q.n_held = kept
    atomics.fetch_add_u64(address(host.tmf.matched), n)
    return n


def _end_removed(q: DevRingPtr, link: ScsiLinkPtr) -> cython.int:
    """End what is held for LUNs that are gone."""
    i: uint32_t
    kept: uint32_t = 0
    target: ScsiTargetPtr
    for i in range(q.n_held):
        target = cast(ScsiTargetPtr, atomics.load_ptr(address(link.host.targets[q.held[i].unit >> 32])))
        if target == NULL or target_lun(target, cast(uint32_t, q.held[i].unit)) == NULL:
            _end_held(q, address(q.held[i]), Response.ABORTED)
            continue
        q.held[kept] = q.held[i]
        kept += 1
    i = q.n_held - kept
    q.n_held = kept
    return cast(cython.int, i)


def _poll(s: SourcePtr, now: uint64_t) -> cython.int:
    q: DevRingPtr = cast(DevRingPtr, s)
    link: ScsiLinkPtr = cast(ScsiLinkPtr, q.device)
    n: cython.int = 0
    sequence: uint64_t = atomics.load_u64(address(link.host.tmf.sequence))
    purge: uint64_t = atomics.load_u64(address(link.host.purge))
    if sequence != link.seen:
        n += _end_concerned(q, link)
        if s.dirty:  # what it ended is seen before its own end
            s.dirty = 0
            s.flush(s)
        atomics.store_u64(address(link.seen), sequence)
    if purge != link.purged:
        n += _end_removed(q, link)
        link.purged = purge
    return n + ring.poll(s, now)


def _arm(s: SourcePtr) -> cython.bint:
    link: ScsiLinkPtr = cast(ScsiLinkPtr, cast(DevRingPtr, s).device)
    found: cython.bint = ring.arm(s)
    if atomics.load_u64(address(link.host.tmf.sequence)) != link.seen:
        return True
    return found or atomics.load_u64(address(link.host.purge)) != link.purged


# ---- control plane ------------------------------------------------------------------------------


class ScsiRing(DeviceRing):
    """A request queue of a virtio-scsi device; index counts from 0."""

    link: ScsiLinkPtr

    def __init__(self, poller: Poller, memory: TargetMemory, setup: QueueSetup, host: TargetHost, index: int) -> None:
        DeviceRing.__init__(self, poller, memory, setup, host)
        self.link = address(host.host.links[index])
        self.link.seen = host.host.tmf.sequence
        self.link.purged = host.host.purge
        self.q.serve = _serve
        self.q.device = self.link
        self.q.source.poll = _poll
        self.q.source.arm = _arm

    async def start(self) -> None:
        """Serve the ring."""
        await DeviceRing.start(self)
        atomics.store_ptr(address(self.link.poller), self.poller.core)

    async def stop(self) -> int:
        """Serve it no more; returns the next avail index. Requests that are held back are forgotten."""
        base: int = await DeviceRing.stop(self)
        atomics.store_ptr(address(self.link.poller), NULL)
        return base
