"""The embedded target's answer to a virtio-scsi request: where it goes, and what is in it (virtio 1.2 §5.6.6.1)."""

from __future__ import annotations

import cython
from cython import address, cast
from cython.cimports.libc.errno import EINVAL
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CharPtr
from cython.cimports.virtiod.scsi import sense
from cython.cimports.virtiod.scsi.spec import Status
from cython.cimports.virtiod.target.ring import DevRingPtr
from cython.cimports.virtiod.target.scsi.host import ScsiLinkPtr
from cython.cimports.virtiod.target.scsi.task import ScsiTaskPtr
from cython.cimports.virtiod.virtio.scsi import CmdResp, CmdRespPtr, Response
from cython.cimports.virtiod.virtqueue.layout import U32Ptr


def part(q: DevRingPtr, n: uint32_t, cut: U32Ptr) -> cython.int:
    """Part the first n bytes of into[] from the data: the segment where data starts, cut what of it is not data."""
    i: uint32_t
    for i in range(q.n_in):
        if q.into[i].iov_len > n or (n == 0 and i):
            q.into[i].iov_base = cast(CharPtr, q.into[i].iov_base) + n
            q.into[i].iov_len -= n
            cut[0] = n
            return cast(cython.int, i)
        n -= cast(uint32_t, q.into[i].iov_len)
    cut[0] = 0
    return -EINVAL if n else cast(cython.int, q.n_in)


def write(q: DevRingPtr, t: ScsiTaskPtr, at: uint32_t, cut: uint32_t) -> None:
    """Write the response into what part() kept of into[]: all segments before at, and cut bytes in front of it."""
    response: CmdResp
    data: BytePtr = cast(BytePtr, address(response))
    sense_size: uint32_t = atomics.load_u32(address(cast(ScsiLinkPtr, q.device).host.sense_size))
    i: uint32_t
    if at == 1 and cut == 0:  # as drivers do it: a segment of its own
        _fill(cast(CmdRespPtr, q.into[0].iov_base), t, sense_size)
        return
    _fill(address(response), t, sense_size)
    for i in range(at):
        memcpy(q.into[i].iov_base, data, q.into[i].iov_len)
        data += q.into[i].iov_len
    if cut:
        memcpy(cast(CharPtr, q.into[at].iov_base) - cut, data, cut)


def _fill(to: CmdRespPtr, t: ScsiTaskPtr, sense_size: uint32_t) -> None:
    """All of the response, with room for sense_size bytes of sense data, which is at least FIXED_SENSE."""
    n: uint32_t = 0
    memset(address(to.sense[0]), 0, sense_size)
    if t.response == Response.OK and t.status == Status.CHECK_CONDITION:
        n = sense.encode(address(to.sense[0]), t.key, t.asc, t.descriptor)
        to.sense[0] |= t.deferred  # SPC-4 §4.5.1: the response codes of deferred errors are the odd ones
        if t.sense_length < n:
            memset(address(to.sense[t.sense_length]), 0, n - t.sense_length)
            n = t.sense_length
    to.sense_len = n
    to.resid = cast(uint32_t, t.out_bytes + t.in_bytes - t.moved)
    to.status_qualifier = 0
    to.status = t.status
    to.response = t.response
