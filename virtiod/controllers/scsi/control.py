"""virtio-scsi's control and event queues (virtio 1.2 §5.6.6.2, §5.6.6.3).

Both carry commands of the control plane only: a task management function, or a buffer that waits for an event.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING

import cython
from cython import address, cast, sizeof
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.virtiod.controllers.scsi.control import TmfPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr
from cython.cimports.virtiod.virtio.scsi import EVENT_BYTES, NO_RESPONSE, TMF_BYTES, ControlType, CtrlTmf, CtrlTmfPtr
from cython.cimports.virtiod.virtqueue import requests, split
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.requests import IoQueuePtr

from virtiod.core.errors import DeviceError
from virtiod.virtqueue.handle import QueueCounters, RequestQueue

if TYPE_CHECKING:
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller

_TMF = struct.Struct("<I4x8sQ")  # struct Tmf


def _build_tmf(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    area: CtrlTmfPtr = cast(CtrlTmfPtr, split.area(address(q.vq), slot))
    tmf: TmfPtr = cast(TmfPtr, q.slots[slot].command.out)
    at: uint64_t = cast(uint64_t, area) + q.vq.to_device
    seg: SegPtr = address(q.segs[requests.DATA_SEG])
    area.type = ControlType.TMF
    area.subtype = tmf.subtype
    area.lun = tmf.lun
    area.id = tmf.id
    area.response = NO_RESPONSE
    seg[0].addr = at
    seg[0].len = TMF_BYTES
    seg[1].addr = at + TMF_BYTES
    seg[1].len = 1
    return q.vq.ops.add(address(q.vq), slot, seg, 1, 1)


def _result_tmf(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    area: CtrlTmfPtr = cast(CtrlTmfPtr, split.area(address(q.vq), slot))
    return atomics.load_u8(address(area.response))


def _build_event(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    area: BytePtr = cast(BytePtr, split.area(address(q.vq), slot))
    seg: SegPtr = address(q.segs[requests.DATA_SEG])
    memset(area, 0, EVENT_BYTES)
    seg[0].addr = cast(uint64_t, area) + q.vq.to_device
    seg[0].len = EVENT_BYTES
    return q.vq.ops.add(address(q.vq), slot, seg, 0, 1)


def _result_event(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    memcpy(q.slots[slot].command.out, split.area(address(q.vq), slot), EVENT_BYTES)
    return 0


class ControlQueue(RequestQueue):
    """Takes task management functions. A device may never answer one; its place on the ring is lost then."""

    def __init__(
        self, memory: DmaMemory, poller: Poller, index: int, size: int, indirect: bool, event_idx: bool, name: str
    ) -> None:
        self.q.ops.build = _build_tmf
        self.q.ops.result = _result_tmf
        self.allocate(memory, poller, index, size, sizeof(CtrlTmf), 2, indirect, event_idx)
        self.set_name(name)

    async def tmf(self, subtype: int, lun: bytes, task: int = 0) -> int:
        """Ask for a task management function; the device's response. DeviceError when it could not be sent.

        The caller sees to a deadline.
        """
        asked = bytearray(_TMF.pack(subtype, lun, task))
        data: BytePtr = asked
        ret: int = await self.request(data, asked)
        if ret < 0:
            raise DeviceError(f"task management function {subtype} was not sent", -ret)
        return ret


class EventQueue(RequestQueue):
    """Brings events, into buffers that wait on the ring."""

    def __init__(
        self, memory: DmaMemory, poller: Poller, index: int, size: int, indirect: bool, event_idx: bool, name: str
    ) -> None:
        self.q.ops.build = _build_event
        self.q.ops.result = _result_event
        self.allocate(memory, poller, index, size, EVENT_BYTES, 1, indirect, event_idx)
        self.set_name(name)

    def counters(self) -> QueueCounters:
        """Buffers that wait for events are no requests in flight."""
        return dataclasses.replace(RequestQueue.counters(self), in_flight=0)

    async def event(self) -> bytes:
        """Wait for an event, for as long as it takes; its bytes. DeviceError when the queue does not run."""
        event = bytearray(EVENT_BYTES)
        data: BytePtr = event
        ret: int = await self.request(data, event)
        if ret:
            raise DeviceError("no event buffer was posted", -ret)
        return bytes(event)
