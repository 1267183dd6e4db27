"""What is noticed of the use of a device's disks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.fake_pci_host import FakeHost
from virtiod.pci.devices import find
from virtiod.pci.disks import Disk, disks_of


def disks(host: FakeHost) -> list[Disk]:
    return disks_of(find("00:05.0", host), host)


def test_the_disks_of_a_device_are_those_beneath_it(host: FakeHost) -> None:
    host.add(disks=("vda", "vdb"))
    host.add("0000:00:06.0", disks=("vdc",))
    host.partition("vda", "vda1", "254:1")
    found = disks(host)
    assert [disk.name for disk in found] == ["vda", "vdb"]
    assert found[0].parts == {"vda": "254:0", "vda1": "254:1"}
    assert [disk.uses for disk in found] == [(), ()]


def mounted(host: FakeHost) -> None:
    host.mount("/dev/root", "/", "254:0")


def mounted_partition(host: FakeHost) -> None:
    host.mount("/dev/vda1", "/with\\040space", "254:1")


def mounted_btrfs(host: FakeHost) -> None:
    host.mount("/dev/vda", "/data", "0:33")


def swap(host: FakeHost) -> None:
    with (host.proc / "swaps").open("a") as table:
        table.write("/dev/vda1 partition 1048572 0 -2\n")


def part_of_a_volume(host: FakeHost) -> None:
    (host.sys / "class/block/vda1/holders/dm-0/dm").mkdir(parents=True)
    (host.sys / "class/block/vda1/holders/dm-0/dm/name").write_text("vg-root\n")


def part_of_a_raid(host: FakeHost) -> None:
    (host.sys / "class/block/vda/holders/md0").mkdir()


def behind_a_loop_device(host: FakeHost) -> None:
    folder = host.sys / "devices/virtual/block/loop3"
    (folder / "loop").mkdir(parents=True)
    (folder / "loop/backing_file").write_text("/dev/vda1\n")
    (host.sys / "class/block/loop3").symlink_to(folder)


def opened(host: FakeHost) -> None:
    host.process(77, "postgres", "/dev/vda1")


def claimed(host: FakeHost) -> None:
    host.claimed.add("vda")


def hidden(host: FakeHost) -> None:
    (host.dev / "vda").unlink()


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (mounted, "vda is mounted at /"),
        (mounted_partition, "vda1 is mounted at /with space"),
        (mounted_btrfs, "vda is mounted at /data"),
        (swap, "vda1 is swap space"),
        (part_of_a_volume, "vda1 is part of vg-root"),
        (part_of_a_raid, "vda is part of md0"),
        (behind_a_loop_device, "vda1 is behind loop3"),
        (opened, "vda1 is open in process 77 (postgres)"),
        (claimed, "vda is claimed, perhaps mounted in another mount namespace"),
        (hidden, "can't tell whether vda is in use"),
    ],
)
def test_a_use_is_noticed(host: FakeHost, use: Callable[[FakeHost], None], what: str) -> None:
    host.add(disks=("vda",))
    host.partition("vda", "vda1", "254:1")
    use(host)
    ((first,),) = [disk.uses for disk in disks(host)]
    assert first.what.startswith(what)
    assert not first.passing


def test_a_look_by_udev_passes(host: FakeHost) -> None:
    host.add(disks=("vda",))
    host.process(9, "(udev-worker)", "/dev/vda")
    assert [use.passing for use in disks(host)[0].uses] == [True]


def test_what_others_use_is_not_this_devices(host: FakeHost) -> None:
    host.add(disks=("vda",))
    host.add("0000:00:06.0", disks=("vdaa",))
    host.mount("/dev/vdaa", "/other", "254:99")
    host.process(77, "cat", "/dev/vdaa")
    host.process(78, "sh", "/dev/null")
    assert disks(host)[0].uses == ()
