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
from cython.cimports.virtiod.controllers.scsi.control import TmfArea, TmfAreaPtr
from cython.cimports.virtiod.core import atomics
from cython.cimports.virtiod.core.types import BytePtr, CharPtr
from cython.cimports.virtiod.virtio.scsi import NO_RESPONSE, ControlType, Event, TmfReq, TmfReqPtr, TmfResp
from cython.cimports.virtiod.virtqueue import layout, queue
from cython.cimports.virtiod.virtqueue.layout import SegPtr
from cython.cimports.virtiod.virtqueue.queue import IoQueuePtr

from virtiod.core.errors import DeviceError
from virtiod.virtqueue.handle import QueueCounters, RequestQueue

if TYPE_CHECKING:
    from virtiod.core.memory import DmaMemory
    from virtiod.poller.poller import Poller
    from virtiod.virtqueue.spec import RingSpec

_TMF = struct.Struct("<II8sQ")  # struct virtio_scsi_ctrl_tmf, without its response


def _build_tmf(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    area: TmfAreaPtr = cast(TmfAreaPtr, layout.slot_area(address(q.vq), slot))
    seg: SegPtr = address(q.segs[queue.DATA_SEG])
    area.request = cast(TmfReqPtr, q.slots[slot].command.out)[0]
    area.answer.response = NO_RESPONSE
    seg[0].addr = cast(uint64_t, address(area.request)) + q.vq.to_device
    seg[0].len = sizeof(TmfReq)
    seg[1].addr = cast(uint64_t, address(area.answer)) + q.vq.to_device
    seg[1].len = sizeof(TmfResp)
    return q.vq.ops.add(address(q.vq), slot, seg, 1, 1)


def _result_tmf(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    area: TmfAreaPtr = cast(TmfAreaPtr, layout.slot_area(address(q.vq), slot))
    return atomics.load_u8(address(area.answer.response))


def _build_event(q: IoQueuePtr, slot: uint32_t, n: uint32_t) -> cython.int:
    area: CharPtr = layout.slot_area(address(q.vq), slot)
    seg: SegPtr = address(q.segs[queue.DATA_SEG])
    memset(area, 0, sizeof(Event))
    seg[0].addr = cast(uint64_t, area) + q.vq.to_device
    seg[0].len = sizeof(Event)
    return q.vq.ops.add(address(q.vq), slot, seg, 0, 1)


def _result_event(q: IoQueuePtr, slot: uint32_t, written: uint32_t) -> cython.int:
    memcpy(q.slots[slot].command.out, layout.slot_area(address(q.vq), slot), sizeof(Event))
    return 0


class ControlQueue(RequestQueue):
    """Sends task management functions. If a device never answers one, its place on the ring is lost."""

    def __init__(self, memory: DmaMemory, poller: Poller, spec: RingSpec) -> None:
        self.q.ops.build = _build_tmf
        self.q.ops.result = _result_tmf
        self.allocate(memory, poller, spec, sizeof(TmfArea))

    async def tmf(self, subtype: int, lun: bytes, task: int = 0) -> int:
        """Sends a task management function; returns the device's response. DeviceError when it could not be sent.

        The caller sets a deadline.
        """
        asked = bytearray(_TMF.pack(ControlType.TMF, subtype, lun, task))
        data: BytePtr = asked
        ret: int = await self.request(data, asked)
        if ret < 0:
            raise DeviceError(f"task management function {subtype} was not sent", -ret)
        return ret


class EventQueue(RequestQueue):
    """Receives events, into buffers that wait on the ring."""

    def __init__(self, memory: DmaMemory, poller: Poller, spec: RingSpec) -> None:
        self.q.ops.build = _build_event
        self.q.ops.result = _result_event
        self.allocate(memory, poller, spec, sizeof(Event))

    def counters(self) -> QueueCounters:
        """The counters, without the buffers that wait for events: those are no requests in flight."""
        return dataclasses.replace(RequestQueue.counters(self), in_flight=0)

    async def event(self) -> bytes:
        """Waits for an event, without a deadline; returns its bytes. DeviceError when the queue does not run."""
        event = bytearray(sizeof(Event))
        data: BytePtr = event
        ret: int = await self.request(data, event)
        if ret:
            raise DeviceError("no event buffer was posted", -ret)
        return bytes(event)
