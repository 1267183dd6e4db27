"""Events and configurations: read, or refused with ProtocolError."""

from __future__ import annotations

from virtiod.controllers.limits import MAX_SEGMENTS
from virtiod.controllers.scsi import config, event
from virtiod.core.errors import ProtocolError


def fuzz(data: bytes) -> None:
    try:
        found = event.parse(data)
        assert found.what is event.What.NOTHING or 0 <= found.target < 256
    except ProtocolError:
        pass
    try:
        space = config.parse(data)
    except ProtocolError:
        return
    assert 1 <= space.max_segments <= MAX_SEGMENTS
    assert space.max_transfer >= 512
    assert 0 <= space.max_target < 256
