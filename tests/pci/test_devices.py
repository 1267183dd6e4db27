"""What is read from sysfs of virtio PCI devices."""

from __future__ import annotations

import pytest

from tests.support.fake_pci_host import FakeHost, config_space
from virtiod.core.errors import InvalidArgument, NotFound
from virtiod.pci.devices import capabilities, find, is_legacy_only, parse_address, scan


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:00:05.0", "0000:00:05.0"),
        ("00:05.0", "0000:00:05.0"),
        ("0:1f.7", "0000:00:1f.7"),
        ("10000:E1:00.1", "10000:e1:00.1"),
        ("0000.00.05.0", "0000:00:05.0"),
    ],
)
def test_an_address_is_understood_as_spdk_does(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "5", "00:05", "00:05.8", "00:20.0", "0000:000:05.0", "x:05.0", "00:05.0\n", "/a"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid PCI address"):
        parse_address(text)


def test_a_device_is_described(host: FakeHost) -> None:
    host.add(group=3)
    device = find("00:05.0", host)
    assert (device.address, device.virtio_type, device.driver) == ("0000:00:05.0", "blk", "virtio-pci")
    assert (device.iommu_group, device.iommu_type, device.iommu_peers) == (3, "DMA-FQ", ())
    assert device.translated
    assert device.numa_node is None
    assert device.config() == config_space()


def test_a_device_without_an_iommu_or_a_driver_has_none(host: FakeHost) -> None:
    host.add(driver=None)
    device = find("00:05.0", host)
    assert (device.driver, device.iommu_group, device.iommu_type, device.translated) == (None, None, None, False)


def test_an_identity_group_does_not_translate(host: FakeHost) -> None:
    host.add(group=1, group_type="identity")
    assert not find("00:05.0", host).translated


def test_peers_of_a_group_are_its_other_devices_without_bridges(host: FakeHost) -> None:
    host.add("0000:00:05.0", group=2)
    host.add("0000:00:05.1", group=2)
    host.add("0000:00:06.0", group=2, vendor=0x8086, device=0x3420, pci_class=0x060400, driver="pcieport")
    assert find("00:05.0", host).iommu_peers == ("0000:00:05.1",)


def test_there_is_no_device_where_there_is_none(host: FakeHost) -> None:
    with pytest.raises(NotFound, match=r"0000:00:09\.0: there is no such PCI device"):
        find("00:09.0", host)


@pytest.mark.parametrize(
    ("device", "subsystem", "kind"),
    [(0x1042, 0x1100, "blk"), (0x1048, 0x1100, "scsi"), (0x1001, 2, "blk"), (0x1004, 8, "scsi"), (0x1044, 0, "rng")],
)
def test_the_type_is_in_the_device_id_or_the_subsystem_of_a_transitional_one(
    host: FakeHost, device: int, subsystem: int, kind: str
) -> None:
    host.add(device=device, subsystem=subsystem)
    assert find("00:05.0", host).virtio_type == kind


def test_a_scan_finds_virtio_devices_only(host: FakeHost) -> None:
    host.add("0000:00:06.0", device=0x1041)
    host.add("0000:00:05.0")
    host.add("0000:00:01.0", vendor=0x8086)
    host.add("0000:00:02.0", device=0x1110)  # ivshmem has the vendor, and is not virtio
    assert [device.address for device in scan(host)] == ["0000:00:05.0", "0000:00:06.0"]


def test_capabilities_are_followed_to_their_end() -> None:
    assert list(capabilities(config_space())) == [(0x09, 0x40), (0x11, 0x50)]


def test_capabilities_that_go_in_circles_end() -> None:
    config = bytearray(config_space())
    config[0x51] = 0x40
    assert len(list(capabilities(bytes(config)))) == 48


@pytest.mark.parametrize(
    ("config", "legacy"), [(config_space(), False), (config_space(modern=False), True), (config_space()[:64], False)]
)
def test_a_device_without_the_modern_capability_is_legacy_only(config: bytes, legacy: bool) -> None:
    assert is_legacy_only(config) == legacy
