"""virtio-blk: how a slot becomes a request (virtio 1.2 §5.2.6), and the status byte an errno."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython
from cython.cimports.libc.errno import EIO, EOPNOTSUPP
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.virtiod.controllers.blk.queue import (
    ID_BYTES,
    NO_STATUS,
    UNMAP_FLAG,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
    BlkArea,
    BlkAreaPtr,
)
from cython.cimports.virtiod.core.atomics import vd_load_u8
from cython.cimports.virtiod.core.types import (
    IO_NO_HOLE,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    BytePtr,
)
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.requests import DATA_SEG, IoQueuePtr, SlotPtr
from cython.cimports.virtiod.virtqueue.split import virtq_area

from virtiod.virtqueue.handle import RequestQueue

if TYPE_CHECKING:
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller


def _build_blk(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    s: SlotPtr = cython.address(q.slots[slot])
    area: BlkAreaPtr = cython.cast(BlkAreaPtr, virtq_area(cython.address(q.vq), slot))
    at: uint64_t = cython.cast(uint64_t, area) + q.vq.to_device
    seg: SegPtr = cython.address(q.segs[DATA_SEG - 1])
    n_out: uint32_t = 1
    area.reserved = 0
    area.sector = s.offset >> 9
    area.status = NO_STATUS
    seg[0].addr = at
    seg[0].len = 16
    if s.kind == OP_READ:
        area.type = VIRTIO_BLK_T_IN
    elif s.kind == OP_WRITE:
        area.type = VIRTIO_BLK_T_OUT
        n_out += n
    elif s.kind == OP_FLUSH:
        area.type = VIRTIO_BLK_T_FLUSH
        area.sector = 0
    elif s.kind == OP_UNMAP or s.kind == OP_WRITE_ZEROES:
        area.type = VIRTIO_BLK_T_DISCARD if s.kind == OP_UNMAP else VIRTIO_BLK_T_WRITE_ZEROES
        area.sector = 0
        area.range_sector = s.offset >> 9
        area.range_sectors = cython.cast(uint32_t, s.length >> 9)
        area.range_flags = 0 if s.kind == OP_UNMAP or s.io.flags & IO_NO_HOLE else UNMAP_FLAG
        seg[1].addr = at + 24
        seg[1].len = 16
        n = 1
        n_out = 2
    else:
        area.type = VIRTIO_BLK_T_GET_ID
        area.sector = 0
        seg[1].addr = at + 40
        seg[1].len = ID_BYTES
        n = 1
    seg[1 + n].addr = at + 16
    seg[1 + n].len = 1
    return q.vq.ops.add(cython.address(q.vq), slot, seg, n_out, 2 + n - n_out)


def _result_blk(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    area: BlkAreaPtr = cython.cast(BlkAreaPtr, virtq_area(cython.address(q.vq), slot))
    status: cython.uchar = vd_load_u8(cython.address(area.status))
    if status == VIRTIO_BLK_S_OK:
        if q.slots[slot].command != cython.NULL:
            memcpy(q.slots[slot].command.out, cython.address(area.id[0]), ID_BYTES)
        return 0
    if status == VIRTIO_BLK_S_UNSUPP:
        return -EOPNOTSUPP
    return -EIO


class BlkQueue(RequestQueue):
    """A request queue of a virtio-blk controller."""

    def __init__(
        self,
        memory: DmaMemory,
        poller: Poller,
        index: int,
        size: int,
        max_segments: int,
        indirect: bool,
        event_idx: bool,
        name: str,
    ) -> None:
        self.q.ops.build = _build_blk
        self.q.ops.result = _result_blk
        self.allocate(memory, poller, index, size, cython.sizeof(BlkArea), max_segments, indirect, event_idx)
        self.set_name(name)

    async def get_id(self) -> str:
        """The device's serial (§5.2.6.1 VIRTIO_BLK_T_GET_ID), "" if it tells none."""
        text = bytearray(ID_BYTES)
        data: BytePtr = text
        ret: int = await self.request(data, text)
        return text.split(b"\0")[0].decode("ascii", "replace").strip() if ret == 0 else ""
