"""Virtio controllers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, UnsetType

from virtiod.bdev.keeping import OnLoss
from virtiod.controllers.controller import State
from virtiod.controllers.description import VirtioDescription
from virtiod.core.described import Member


@dataclass(kw_only=True)
class ScsiControllerDescription:
    """A virtio-scsi controller."""

    name: Annotated[str, Member("its name")]
    virtio: Annotated[VirtioDescription, Member("its queues, and how it is reached")]


@dataclass(kw_only=True)
class QueueDescription:
    """A virtqueue in use."""

    index: Annotated[int, Member("its number among queues of its kind, from 0")]
    size: Annotated[int, Member("entries of its ring")]
    in_flight: Annotated[int, Member("requests that the device has")]
    kicks: Annotated[int, Member("times that the device was told of new requests")]
    interrupts: Annotated[int, Member("times that the device ended a sleep of the poller")]
    full: Annotated[int, Member("times that an I/O had to wait for room")]
    poller: Annotated[str, Member("name of the poller that it is on")]


@dataclass(kw_only=True)
class KeptDescription:
    """Writes that were acknowledged and are not known to be stable, of all bdevs of a controller."""

    records: Annotated[int, Member("kept writes, in parts of up to 256 KiB")]
    bytes: Annotated[int, Member("what they wrote", "bytes")]
    flushes: Annotated[int, Member("flushes of virtiod's own, to keep no more than may be kept")]
    repeated: Annotated[int, Member("kept writes that were written again")]
    losses: Annotated[int, Member("times that acknowledged writes were lost")]


@dataclass(kw_only=True)
class QuarantineDescription:
    """Memory that nobody gets until the devices of old sessions are known to have stopped, or to be gone."""

    sessions: Annotated[int, Member("old sessions whose device may still use it")]
    small_bytes: Annotated[int, Member("small buffers of pollers (4 KiB)", "bytes")]
    large_bytes: Annotated[int, Member("large buffers of pollers (64 KiB)", "bytes")]
    memory_bytes: Annotated[int, Member("rings, and other pieces of DMA memory", "bytes")]


@dataclass(kw_only=True)
class ControllerDescription:
    """A virtio controller."""

    name: Annotated[str, Member("its name")]
    dev_type: Annotated[str, Member('kind of device: "blk" or "scsi"')]
    trtype: Annotated[str, Member("transport, as given to bdev_virtio_attach_controller")]
    traddr: Annotated[str, Member("socket path, or PCI address")]
    state: Annotated[State, Member("what it does; it serves I/O when it is up")]
    reconnects: Annotated[int, Member("times that its device was lost and came back")]
    on_loss: Annotated[OnLoss, Member("what becomes of writes that were not flushed when the device is lost")]
    kept: Annotated[KeptDescription, Member("writes that are kept until they are flushed")]
    virtio: Annotated[VirtioDescription, Member("its queues, and how it is reached")]
    queues: Annotated[list[QueueDescription], Member("its virtqueues")]
    bdevs: Annotated[list[str] | UnsetType, Member("names of its bdevs; absent when it has none")] = UNSET
    waits_for: Annotated[
        str | UnsetType,
        Member("the old device that must be gone before it connects again; absent when it waits for none"),
    ] = UNSET
    quarantine: Annotated[
        QuarantineDescription | UnsetType, Member("memory that an old device may still use; absent when there is none")
    ] = UNSET
    why: Annotated[
        str | UnsetType,
        Member("why it does not serve I/O, and what to do where virtiod can't help itself; absent while it is up"),
    ] = UNSET
    unused: Annotated[
        list[str] | UnsetType,
        Member("what the device has that can't be used, as a unit of block size 0, and why; absent when there is none"),
    ] = UNSET
