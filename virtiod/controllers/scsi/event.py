"""Events of the event queue (virtio 1.2 §5.6.6.3)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from virtiod.core.counted import counted
from virtiod.core.errors import ProtocolError
from virtiod.scsi import address
from virtiod.virtio.scsi import EventFlag, EventType, ResetReason

_LAYOUT = struct.Struct("<I8sI")  # struct virtio_scsi_event


class What(enum.StrEnum):
    """What an event tells a controller."""

    NOTHING = "nothing"
    RESCAN = "scan the target again"
    REMOVED = "the unit, or with LUN 0 perhaps the target, is gone"
    RESET = "the unit was reset"
    CHANGED = "the unit's parameters changed"


_RESETS: dict[int, What] = {
    ResetReason.HARD: What.RESET,
    ResetReason.RESCAN: What.RESCAN,
    ResetReason.REMOVED: What.REMOVED,
}


@dataclass(frozen=True)
class Event:
    """An event. missed: others were lost before it. target, lun: the unit; -1 when it is not known. reason: as the
    device wrote it; of CHANGED it is ascq << 8 | asc."""

    what: What
    missed: bool = False
    target: int = -1
    lun: int = -1
    reason: int = 0


def parse(data: bytes) -> Event:
    """Parses struct virtio_scsi_event. Raises ProtocolError."""
    if len(data) < _LAYOUT.size:
        raise ProtocolError(f"event of {counted(len(data), 'byte')}, {_LAYOUT.size} are needed")
    kind, where, reason = _LAYOUT.unpack_from(data)
    missed = bool(kind & EventFlag.EVENTS_MISSED)
    kind &= ~EventFlag.EVENTS_MISSED
    target, lun = address.unpack(where) or (-1, -1)
    if kind == EventType.TRANSPORT_RESET:
        what = _RESETS.get(reason, What.NOTHING)
    else:
        what = What.CHANGED if kind == EventType.PARAM_CHANGE else What.NOTHING
    if what is not What.NOTHING and target < 0:
        raise ProtocolError(f"event {kind} about {where.hex()}, which is no unit's address")
    return Event(what, missed, target, lun, reason)
