"""Events of a SCSI controller (virtio 1.2 §5.6.6.3)."""

from __future__ import annotations

import struct

import pytest

from virtiod.controllers.scsi import event
from virtiod.core.errors import ProtocolError
from virtiod.scsi import address


def test_events() -> None:
    where = address.pack(3, 300)
    parsed = event.parse(struct.pack("<I8sI", 1 | 1 << 31, where, 2))
    assert parsed == event.Event(event.What.REMOVED, True, 3, 300, 2)
    assert event.parse(struct.pack("<I8sI", 1 << 31, bytes(8), 0)).missed
    for data in (bytes(15), struct.pack("<I8sI", 1, bytes(8), 1), struct.pack("<I8sI", 3, b"\2" + bytes(7), 1)):
        with pytest.raises(ProtocolError):
            event.parse(data)
