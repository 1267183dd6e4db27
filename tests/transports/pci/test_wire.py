"""Where a device says its structures are: what is believed, and what is not."""

from __future__ import annotations

import pytest

from tests.transports.pci.space import BARS, COMMON, DEVICE, ISR, NOTIFY, QEMU, config_space, usual, virtio_cap
from virtiod.core.errors import NotSupported, ProtocolError
from virtiod.transports.pci import wire
from virtiod.transports.pci.wire import Place

PAGE = 0x1000


def replaced(kind: int, *instead: bytes) -> bytes:
    """QEMU's, with other capabilities in place of one."""
    caps = []
    for cap in QEMU:
        caps += list(instead) if cap[0] == kind else [virtio_cap(*cap)]
    return config_space(caps)


def test_the_structures_of_a_modern_device_are_found() -> None:
    assert wire.layout(usual(), BARS) == wire.Layout(
        common=Place(4, 0, PAGE),
        notify=Place(4, 0x3000, PAGE),
        notify_multiplier=4,
        isr=Place(4, 0x1000, PAGE),
        device=Place(4, 0x2000, PAGE),
    )


def test_a_device_without_a_configuration_is_one() -> None:
    assert wire.layout(replaced(DEVICE), BARS).device is None


def test_of_several_structures_the_first_that_can_be_used_counts() -> None:
    # §4.1.4.1; BAR 2 is one of ports, which can't be mapped
    config = replaced(NOTIFY, virtio_cap(NOTIFY, 2, 0, 4), virtio_cap(NOTIFY, 1, 16, 64), virtio_cap(NOTIFY, 4, 0, 8))
    assert wire.layout(config, BARS).notify == Place(1, 16, 64)


@pytest.mark.parametrize(
    ("kind", "cap", "missing"),
    [
        (COMMON, virtio_cap(COMMON, 4, 0, 55), "common"),  # too short
        (COMMON, virtio_cap(COMMON, 4, 2, 64), "common"),  # not aligned
        (COMMON, virtio_cap(COMMON, 4, 0x3FF0, 64), "common"),  # beyond the BAR
        (COMMON, virtio_cap(COMMON, 4, 0xFFFFFFFC, 0xFFFFFFFC), "common"),
        (COMMON, virtio_cap(COMMON, 3, 0, 64), "common"),  # no such BAR
        (NOTIFY, virtio_cap(NOTIFY, 4, 0, 1), "notify"),
        (NOTIFY, virtio_cap(NOTIFY, 4, 1, 8), "notify"),
        (NOTIFY, virtio_cap(NOTIFY, 4, 0, 8, multiplier=3), "notify"),  # §4.1.4.4.1
        (NOTIFY, virtio_cap(NOTIFY, 4, 0, 8, multiplier=1), "notify"),
        (NOTIFY, virtio_cap(NOTIFY, 4, 0, 8)[:2] + b"\x10" + virtio_cap(NOTIFY, 4, 0, 8)[3:], "notify"),  # cut short
        (ISR, virtio_cap(ISR, 4, 0, 0), "ISR"),
        (ISR, virtio_cap(ISR, 6, 0, 1), "ISR"),  # reserved: ignored
    ],
)
def test_a_structure_that_can_not_be_used_is_missed(kind: int, cap: bytes, missing: str) -> None:
    with pytest.raises(ProtocolError, match=f"no usable {missing} structure"):
        wire.layout(replaced(kind, cap), BARS)


def test_a_device_without_modern_structures_is_told_from_a_broken_one() -> None:
    with pytest.raises(NotSupported, match=r"legacy interface only.*disable-modern=off"):
        wire.layout(replaced(COMMON), BARS)
    with pytest.raises(NotSupported, match="legacy interface only"):
        wire.layout(config_space([]), BARS)


def test_a_list_that_comes_back_to_itself_ends() -> None:
    config = bytearray(usual())
    config[0x40 + 24 * 3 + 1] = 0x40
    assert wire.layout(bytes(config), BARS).common == Place(4, 0, PAGE)


@pytest.mark.parametrize("multiplier", [0, 2, 4, 4096])
def test_a_doorbell_is_its_offset_times_the_multiplier(multiplier: int) -> None:
    layout = wire.layout(replaced(NOTIFY, virtio_cap(NOTIFY, 4, 0, 0x4000, multiplier)), BARS)
    assert layout.doorbell(3) == 3 * multiplier


def test_a_doorbell_beyond_the_notifications_is_refused() -> None:
    layout = wire.layout(replaced(NOTIFY, virtio_cap(NOTIFY, 4, 0, 16, 4)), BARS)
    assert layout.doorbell(3) == 12
    with pytest.raises(ProtocolError, match="queue_notify_off 4"):
        layout.doorbell(4)


def test_the_command_register_keeps_what_is_not_ours() -> None:
    assert wire.command(0x0541, dma=True) == 0x0547
    assert wire.command(0x0007, dma=False) == 0x0403
