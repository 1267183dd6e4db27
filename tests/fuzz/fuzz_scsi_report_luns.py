"""REPORT LUNS: LUNs that can be addressed, in order and once each."""

from __future__ import annotations

from virtiod.core.errors import ProtocolError
from virtiod.scsi import address, parse


def fuzz(data: bytes) -> None:
    try:
        luns, length = parse.luns(data)
    except ProtocolError:
        return
    assert length >= 8
    assert luns == sorted(set(luns))
    assert len(luns) <= len(data) // 8
    for lun in luns:
        assert address.unpack(address.pack(0, lun)) == (0, lun)
