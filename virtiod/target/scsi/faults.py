"""Faults of the embedded target's logical units: which commands they hit, and what becomes of those."""

from __future__ import annotations

import cython
from cython import address
from cython.cimports.libc.signal import SIGKILL
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.virtiod.core import atomics, linux
from cython.cimports.virtiod.scsi import sense
from cython.cimports.virtiod.scsi.spec import Status
from cython.cimports.virtiod.target import ring
from cython.cimports.virtiod.target.ring import DevRingPtr, HeldPtr
from cython.cimports.virtiod.target.scsi import primary, task
from cython.cimports.virtiod.target.scsi.lun import ANY_OPCODE, Fault, LunFaultPtr
from cython.cimports.virtiod.target.scsi.task import ScsiTaskPtr
from cython.cimports.virtiod.virtio.scsi import Response


def hit(f: LunFaultPtr, opcode: uint8_t) -> cython.bint:
    """Is this command one to spoil? Any poller may ask: the counts are atomic."""
    seen: uint64_t
    if f.opcode != ANY_OPCODE and f.opcode != opcode:
        return False
    seen = atomics.fetch_add_u64(address(f.seen), 1) + 1
    if seen <= f.after or (f.every and (seen - f.after) % f.every):
        return False
    if f.times and atomics.load_u64(address(f.spoiled)) >= f.times:
        return False
    atomics.fetch_add_u64(address(f.spoiled), 1)
    return True


def spoil(t: ScsiTaskPtr, h: HeldPtr) -> cython.bint:
    """Do what the fault asks for, in place of the command or after it; true if it gets no response."""
    f: LunFaultPtr = address(t.lun.fault)
    q: DevRingPtr = t.q
    kind: uint32_t = f.kind
    if kind == Fault.SENSE:
        if sense.is_success(f.key) and not f.deferred:
            primary.execute(t)
        if t.response == Response.OK and t.status == Status.GOOD:
            task.check(t, f.key, f.asc)
        t.deferred = f.deferred
        t.sense_length = f.sense_length
        t.descriptor = f.descriptor
    elif kind == Fault.STATUS:
        t.status = f.value
    elif kind == Fault.RESPONSE:
        t.response = f.value
    elif kind == Fault.DEATH:
        linux.kill_self(SIGKILL)
    elif kind == Fault.USED_ID:
        ring.push(q, q.size + 7, 0)
        return True
    elif kind == Fault.USED_INDEX:
        q.used_idx += q.size + 1
        q.source.dirty = 1
        return True
    elif kind == Fault.NO_RESPONSE:
        ring.push(q, h.head, 0)
        return True
    elif kind == Fault.SILENCE:
        h.due_ns = ring.HELD_FOR_EVER
        ring.hold(q, h)
        return True
    return False
