"""virtio-blk: how a slot becomes a request (virtio 1.2 §5.2.6), and the status byte an errno."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import cython
from cython import address, cast, sizeof
from cython.cimports.libc.errno import EIO, EOPNOTSUPP
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.controllers.blk.queue import BlkArea, BlkAreaPtr, Habits, HabitsPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, IoFlag, Op
from cython.cimports.virtiod.virtio import blk
from cython.cimports.virtiod.virtio.blk import BlkHeader, BlkRange, RangeFlag, RequestType, Status
from cython.cimports.virtiod.virtqueue import layout, queue
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr, SlotPtr

from virtiod.core.errors import DeviceError
from virtiod.core.names import clean
from virtiod.virtqueue.handle import RequestQueue

if TYPE_CHECKING:
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller
    from virtiod.virtqueue.spec import RingSpec


def _build(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    s: SlotPtr = address(q.slots[slot])
    area: BlkAreaPtr = cast(BlkAreaPtr, layout.slot_area(address(q.vq), slot))
    at: uint64_t = cast(uint64_t, area) + q.vq.to_device
    seg: SegPtr = address(q.segs[queue.DATA_SEG - 1])
    n_out: uint32_t = 1
    area.header.reserved = 0
    area.header.sector = s.offset >> blk.SECTOR_SHIFT
    area.status = blk.NO_STATUS
    seg[0].addr = at
    seg[0].len = sizeof(BlkHeader)
    if s.kind == Op.READ:
        area.header.type = RequestType.IN
    elif s.kind == Op.WRITE:
        area.header.type = RequestType.OUT
        n_out += n
    elif s.kind == Op.FLUSH:
        area.header.type = RequestType.FLUSH
        area.header.sector = 0
    elif s.kind == Op.UNMAP or s.kind == Op.WRITE_ZEROES:
        area.header.type = RequestType.DISCARD if s.kind == Op.UNMAP else RequestType.WRITE_ZEROES
        area.header.sector = 0
        area.range.sector = s.offset >> blk.SECTOR_SHIFT
        area.range.sectors = cast(uint32_t, s.length >> blk.SECTOR_SHIFT)
        area.range.flags = 0 if s.kind == Op.UNMAP or s.io.flags & IoFlag.NO_HOLE else RangeFlag.MAY_UNMAP
        seg[1].addr = cast(uint64_t, address(area.range)) + q.vq.to_device
        seg[1].len = sizeof(BlkRange)
        n = 1
        n_out = 2
    else:
        area.header.type = RequestType.GET_ID
        area.header.sector = 0
        seg[1].addr = cast(uint64_t, address(area.id[0])) + q.vq.to_device
        seg[1].len = blk.ID_BYTES
        memset(address(area.id[0]), 0, blk.ID_BYTES)
        n = 1
    seg[1 + n].addr = cast(uint64_t, address(area.status)) + q.vq.to_device
    seg[1 + n].len = 1
    return q.vq.ops.add(address(q.vq), slot, seg, n_out, 2 + n - n_out)


def _result(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    area: BlkAreaPtr = cast(BlkAreaPtr, layout.slot_area(address(q.vq), slot))
    status: cython.uchar = atomics.load_u8(address(area.status))
    s: SlotPtr = address(q.slots[slot])
    if status == Status.UNSUPP:
        return -EOPNOTSUPP
    if status != Status.OK:
        return -EIO
    if s.kind == queue.KIND_CONTROL:
        return _take_id(q, slot, written)
    # §2.7.8.2: what is beyond the used length may not have been written: it would be what another I/O left there. The
    # status differs from what was there, so it need not count: Cloud Hypervisor, Firecracker and kvmtool leave it out.
    if s.kind == Op.READ and written < s.length and not (written == 1 and cast(HabitsPtr, q.kind).status_only):
        return -EIO
    return 0


def _take_id(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    """The serial, into the command's out. It also shows how the device counts: ACRN and bhyve say 1 to everything.

    Cloud Hypervisor's vhost-user-blk says 0 here: what is there was written all the same, the room was empty.
    """
    area: BlkAreaPtr = cast(BlkAreaPtr, layout.slot_area(address(q.vq), slot))
    cast(HabitsPtr, q.kind).status_only = written == 1
    if 1 < written < blk.ID_BYTES:
        return -EIO
    memcpy(q.slots[slot].command.out, address(area.id[0]), blk.ID_BYTES)
    return 0


class BlkQueue(RequestQueue):
    """A request queue of a virtio-blk controller."""

    habits: Habits

    def __init__(self, memory: DmaMemory, poller: Poller, spec: RingSpec) -> None:
        self.q.ops.build = _build
        self.q.ops.result = _result
        self.q.kind = address(self.habits)
        self.allocate(memory, poller, spec, sizeof(BlkArea))

    async def get_id(self) -> str:
        """The device's serial (§5.2.6.1 VIRTIO_BLK_T_GET_ID); "" if it has none. Raises DeviceError if it fails."""
        text = bytearray(blk.ID_BYTES)
        data: BytePtr = text
        ret: int = await self.request(data, text)
        if ret not in {0, -EOPNOTSUPP}:
            raise DeviceError(f"GET_ID: {errno.errorcode.get(-ret, ret)}")
        return clean(text.split(b"\0")[0].decode("ascii", "replace"))

    @property
    def counts_status_only(self) -> bool:
        """Since its last GET_ID: it counts 1 byte as written, the status, also for a read."""
        return self.habits.status_only != 0

    def expect_status_only(self, expected: bool) -> None:
        """What another queue of the device found out. Before the first I/O since the device came."""
        atomics.store_u8(address(self.habits.status_only), expected)
