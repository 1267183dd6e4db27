"""MODE SENSE and READ CAPACITY, of either length: read, or refused with ProtocolError."""

from __future__ import annotations

from virtiod.core.errors import ProtocolError
from virtiod.scsi import parse


def fuzz(data: bytes) -> None:
    for long in (False, True):
        try:
            found = parse.mode(data, long)
        except ProtocolError:
            continue
        assert found.write_cache in {None, False, True}
    for parser in (parse.capacity_10, parse.capacity_16):
        try:
            capacity = parser(data)
        except ProtocolError:
            continue
        assert capacity is None or capacity.blocks > 0
