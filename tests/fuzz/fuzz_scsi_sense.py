"""Sense data: whatever a device sends is sense or none, and what is can be put into words."""

from __future__ import annotations

from virtiod.scsi import sense


def fuzz(data: bytes) -> None:
    found = sense.parse(data)
    if found is not None:
        assert str(found)
