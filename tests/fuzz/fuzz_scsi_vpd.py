"""VPD pages, whichever the bytes say they are: read, or refused with ProtocolError."""

from __future__ import annotations

import uuid

from virtiod.core.errors import ProtocolError
from virtiod.scsi import parse


def fuzz(data: bytes) -> None:
    for parser in (parse.supported_pages, parse.serial, parse.block_limits, parse.provisioning):
        try:
            parser(data)
        except ProtocolError:
            continue
    try:
        found = parse.designators(data)
    except ProtocolError:
        return
    assert len(found) <= len(data) // 4
    assert all(isinstance(d.name, str) for d in found)
    name = parse.unit_uuid(found)
    assert name is None or uuid.UUID(name)
