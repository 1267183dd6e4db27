"""Whatever configuration space says, each structure that is found lies in a BAR, and each doorbell in it."""

from __future__ import annotations

from virtiod.core.errors import NotSupported, ProtocolError
from virtiod.transports.pci import wire

BARS = {0: 0x1000, 1: 0x40, 4: 0x4000, 5: 1 << 33}


def fuzz(data: bytes) -> None:
    config = data[: wire.CONFIG_BYTES]
    try:
        layout = wire.layout(config, BARS)
    except (NotSupported, ProtocolError):
        return
    for place in (layout.common, layout.notify, layout.isr, layout.device):
        assert place is None or place.offset + place.length <= BARS[place.bar], place
    assert layout.common.length >= wire.COMMON_BYTES
    assert layout.common.offset % 4 == 0
    assert layout.notify.offset % 2 == 0
    for notify_off in (0, 1, 2, 255, 0xFFFF):
        try:
            at = layout.doorbell(notify_off)
        except ProtocolError:
            continue
        assert at % 2 == 0
        assert 0 <= at <= layout.notify.length - 2
