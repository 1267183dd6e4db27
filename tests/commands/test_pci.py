"""`virtiod pci` shows devices and binds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fake_pci_host import FakeHost
from virtiod import cli
from virtiod.commands import pci
from virtiod.core.errors import Busy


def command(host: FakeHost, *words: str) -> int:
    return pci.run(cli.parse(["pci", *words]), host)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def machine(host: FakeHost) -> FakeHost:
    """Of everything one."""
    host.add("0000:00:02.0", disks=("vda",))
    host.mount("/dev/vda", "/", "254:0")
    host.add("0000:00:03.0", device=0x1041)
    host.add("0000:00:05.0", group=5, disks=("vdb",))
    host.add("0000:00:06.0", group=6, driver="vfio-pci", device=0x1048)
    return host


def test_a_list_shows_what_each_device_needs(machine: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(machine, "list") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "ADDRESS"
    assert [row.split()[:3] for row in rows] == [
        ["0000:00:02.0", "blk", "virtio-pci"],
        ["0000:00:03.0", "net", "virtio-pci"],
        ["0000:00:05.0", "blk", "virtio-pci"],
        ["0000:00:06.0", "scsi", "vfio-pci"],
    ]
    assert "vda (in use)  its disk is in use: vda is mounted at /" in rows[0]
    assert "only virtio-blk and virtio-scsi" in rows[1]
    assert "5 (DMA-FQ)" in rows[2]
    assert "take it with `virtiod pci bind 0000:00:05.0`, or start virtiod with --allow-unbind" in rows[2]
    assert rows[3].endswith("ready")


def test_a_list_is_for_programs_too(machine: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(machine, "list", "--json") == 0
    first, _, third, fourth = json.loads(capsys.readouterr().out)
    assert first["disks"] == [{"name": "vda", "uses": ["vda is mounted at /"]}]
    assert (first["way"], third["way"], fourth["to_use"]) == ("sysfs", "vfio", "ready")
    assert third.keys() == {
        "address", "vendor", "device", "type", "driver", "iommu_group", "iommu_type", "iommu_peers", "numa_node",
        "disks", "way", "to_use",
    }  # fmt: skip


def test_a_machine_without_any_says_so(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(host, "list") == 0
    assert capsys.readouterr().out == "no virtio PCI devices\n"


def test_bind_and_unbind_say_what_they_did(machine: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(machine, "bind", "00:05.0") == 0
    assert capsys.readouterr().out == "0000:00:05.0 is bound to vfio-pci: ready\n"
    assert command(machine, "unbind", "00:05.0") == 0
    assert capsys.readouterr().out == "0000:00:05.0 is bound to virtio-pci: vdb\n"


def test_bind_says_what_is_left_to_do(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    host.add("0000:00:05.0", group=5)
    host.add("0000:00:05.1", group=5)
    assert command(host, "bind", "00:05.0") == 0
    assert "its IOMMU group 5 also has 0000:00:05.1 (virtio-pci)" in capsys.readouterr().out
    assert command(host, "bind", "00:05.1") == 0
    assert capsys.readouterr().out == "0000:00:05.1 is bound to vfio-pci: ready\n"


def test_a_disk_in_use_is_not_taken_by_command_either(machine: FakeHost) -> None:
    with pytest.raises(Busy, match="vda is mounted at /"):
        command(machine, "bind", "00:02.0")


def test_what_is_wrong_is_told_with_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pci", "bind", "nonsense"]) == 1
    assert capsys.readouterr().err == "virtiod: Invalid PCI address 'nonsense'\n"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["pci"])
    assert exit_.value.code == 2
