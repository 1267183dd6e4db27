"""INQUIRY data: read, or refused with ProtocolError."""

from __future__ import annotations

from virtiod.core.errors import ProtocolError
from virtiod.scsi import parse


def fuzz(data: bytes) -> None:
    try:
        found = parse.inquiry(data)
    except ProtocolError:
        return
    assert 0 <= found.type < 32
    assert len(found.vendor) <= 8
    assert (found.vendor + found.product + found.revision).isascii()
