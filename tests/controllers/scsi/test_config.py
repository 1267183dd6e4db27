"""The configuration of a SCSI controller (virtio 1.2 §5.6.4)."""

from __future__ import annotations

import struct

import pytest

from virtiod.controllers.scsi import config
from virtiod.core.errors import ProtocolError


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ((0, 126, 0xFFFF, 1, 16, 96, 32, 0, 255, 16383), "num_queues"),
        ((1, 126, 0xFFFF, 1, 16, 96, 15, 0, 255, 16383), "cdb_size"),
        ((1, 126, 0xFFFF, 1, 16, 300, 32, 0, 255, 16383), "sense_size"),
        ((1, 126, 0xFFFF, 1, 17, 96, 32, 0, 255, 16383), "event_info_size"),
    ],
)
def test_configurations_that_can_not_be(fields: tuple[int, ...], what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        config.parse(struct.pack("<IIIIIIIHHI", *fields))


def test_a_configuration_is_bounded() -> None:
    huge = config.parse(struct.pack("<IIIIIIIHHI", *[0xFFFFFFFF] * 4, 16, 96, 32, 0xFFFF, 0xFFFF, 0xFFFFFFFF))
    assert (huge.max_segments, huge.max_transfer, huge.max_target, huge.max_lun) == (254, 0xFFFF * 512, 255, 16383)
    zero = config.parse(struct.pack("<IIIIIIIHHI", 1, 0, 0, 0, 0, 96, 32, 0, 0, 0))
    assert (zero.max_segments, zero.max_transfer, zero.max_target) == (126, 0xFFFF * 512, 0)
