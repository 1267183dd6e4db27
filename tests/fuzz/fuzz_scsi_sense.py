"""Sense: the control plane and the data path make the same of it, and it can be put into words."""

from __future__ import annotations

from virtiod.controllers.scsi.result import sense_code
from virtiod.scsi import cause, sense


def fuzz(data: bytes) -> None:
    found = sense.parse(data)
    code = sense_code(data)
    if found is None:
        assert code == -1
        return
    assert code == found.key << 16 | found.code
    assert cause.sense_of(3 << 24 | code) == found
    assert cause.describe(3 << 24 | code) == str(found)
