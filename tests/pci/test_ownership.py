"""Devices are taken, refused and given back."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_pci_host import FakeHost
from tests.support.waiting import PATIENCE_S, wait_until
from virtiod.core.errors import Busy, DeadlineError, DeviceError, NotFound, VirtiodError
from virtiod.pci import ownership
from virtiod.pci.ownership import Owned

ADDRESS = "0000:00:05.0"
HUGE = 2 << 20


def take(host: FakeHost, allow_unbind: bool = True, address: str = ADDRESS, **more: Any) -> Owned:
    return asyncio.run(ownership.take(address, allow_unbind, host=host, **more))


def refusal(host: FakeHost, allow_unbind: bool = True, **more: Any) -> VirtiodError:
    """The error; the device is what it was, and can be taken when what is in the way has gone."""
    before = host.driver()
    with pytest.raises(VirtiodError) as caught:
        take(host, allow_unbind, **more)
    assert host.driver() == before
    return caught.value


@pytest.mark.parametrize(
    ("group", "kind", "way", "driver"),
    [
        (None, "", "sysfs", None),
        (3, "identity", "sysfs", None),
        (3, "DMA", "vfio", "vfio-pci"),
        (3, "DMA-FQ", "vfio", "vfio-pci"),
    ],
)
def test_a_device_is_taken_the_way_that_its_iommu_asks_for(
    host: FakeHost, group: int | None, kind: str, way: str, driver: str | None
) -> None:
    host.add(group=group, group_type=kind, disks=("vda",))
    owned = take(host, page_size=HUGE)
    assert (owned.way, owned.device.driver, host.driver()) == (way, driver, driver)
    asyncio.run(owned.give_back())
    assert host.driver() == "virtio-pci"
    assert (host.path() / "driver_override").read_text() == "(null)\n"
    assert [path.name for path in (host.sys / "class/block").iterdir()] == ["vda"]


@pytest.mark.parametrize("driver", [None, "uio_pci_generic"])
def test_a_device_that_the_kernel_does_not_use_needs_no_permission_and_stays_as_it_is(
    host: FakeHost, driver: str | None
) -> None:
    host.add(driver=driver)
    owned = take(host, allow_unbind=False)
    assert owned.way == "sysfs"
    asyncio.run(owned.give_back())
    assert host.driver() == driver
    assert (host.path() / "driver_override").read_text() == "(null)\n"


@pytest.mark.parametrize("driver", [None, "virtio-pci"])
def test_no_driver_gets_a_device_that_is_driven_without_one(host: FakeHost, driver: str | None) -> None:
    host.add(driver=driver)
    owned = take(host)
    host.write(host.sys / "bus/pci/drivers_probe", ADDRESS)  # as modprobe would
    assert host.driver() is None
    asyncio.run(owned.give_back())
    host.write(host.sys / "bus/pci/drivers_probe", ADDRESS)
    assert host.driver() == "virtio-pci"


@pytest.mark.parametrize("group", [None, 1])
def test_a_device_that_the_kernel_takes_at_the_same_time_is_the_kernels(host: FakeHost, group: int | None) -> None:
    host.add(driver=None, group=group)
    host.arriving.add(ADDRESS)
    with pytest.raises(Busy, match="virtio-pci has it now, and not no driver"):
        take(host)
    assert host.driver() == "virtio-pci"
    assert (host.path() / "driver_override").read_text() == "(null)\n"
    assert "unbind" not in "".join(host.writes)


def test_a_device_bound_to_vfio_stays_so(host: FakeHost) -> None:
    host.add(group=1, driver="vfio-pci")
    owned = take(host, allow_unbind=False)
    assert owned.way == "vfio"
    asyncio.run(owned.give_back())
    assert (host.driver(), host.writes) == ("vfio-pci", [])


def test_an_unbound_device_behind_an_iommu_is_bound_to_vfio_and_then_unbound_again(host: FakeHost) -> None:
    host.add(group=1, driver=None)
    owned = take(host, allow_unbind=False)
    assert host.driver() == "vfio-pci"
    asyncio.run(owned.give_back())
    assert host.driver() is None


def test_the_operators_choice_of_vfio_beats_an_identity_group(host: FakeHost) -> None:
    host.add(group=1, group_type="identity", driver="vfio-pci")
    owned = take(host, allow_unbind=False, page_size=4096)
    assert owned.way == "vfio"
    asyncio.run(owned.give_back())


def test_an_override_of_the_administrator_comes_back(host: FakeHost) -> None:
    host.add(group=1)
    (host.path() / "driver_override").write_text("virtio-pci\n")
    owned = take(host)
    asyncio.run(owned.give_back())
    assert (host.path() / "driver_override").read_text() == "virtio-pci\n"


def test_giving_back_twice_does_nothing_more(host: FakeHost) -> None:
    host.add()
    owned = take(host)
    asyncio.run(owned.give_back())
    writes = list(host.writes)
    asyncio.run(owned.give_back())
    assert host.writes == writes


@pytest.mark.parametrize(("group", "left"), [(1, "vfio-pci"), (None, None)])
def test_a_device_is_taken_again_after_its_owner_was_killed(
    host: FakeHost, group: int | None, left: str | None
) -> None:
    host.add(group=group)
    take(host).keep()  # nothing gives it back
    owned = take(host, allow_unbind=False)
    asyncio.run(owned.give_back())
    assert host.driver() == left
    assert ownership.unbind(ADDRESS, host).driver == "virtio-pci"
    assert (host.path() / "driver_override").read_text() == "(null)\n"


def test_giving_back_what_was_removed_is_no_error(host: FakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host.add()
    owned = take(host)
    host.vanish(ADDRESS)
    asyncio.run(owned.give_back())
    assert not caplog.records[1:]


def test_a_device_that_its_driver_does_not_take_back_is_logged(
    host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.add()
    owned = take(host)
    host.stubborn.add("virtio-pci")
    asyncio.run(owned.give_back())
    assert "`virtiod pci unbind 0000:00:05.0` tries it again" in caplog.text


def test_a_device_is_owned_by_one_at_a_time(host: FakeHost) -> None:
    host.add()
    owned = take(host)
    with pytest.raises(Busy, match="in use by virtiod: detach its controller first"):
        take(host)
    with pytest.raises(Busy, match="in use by virtiod"):
        ownership.unbind(ADDRESS, host)
    asyncio.run(owned.give_back())
    asyncio.run(take(host).give_back())


# ---- refusals


def mounted(host: FakeHost) -> None:
    host.add(disks=("vda",))
    host.mount("/dev/vda", "/srv")


def claimed(host: FakeHost) -> None:
    host.add(disks=("vda",))
    host.claimed.add("vda")


def foreign_driver(host: FakeHost) -> None:
    host.add(driver="e1000e")


def no_vfio(host: FakeHost) -> None:
    host.add(group=1)
    (host.sys / "bus/pci/drivers/vfio-pci").rename(host.root / "unloaded")


def shared_group(host: FakeHost) -> None:
    host.add(group=4)
    host.add("0000:00:05.1", group=4)


def locked_down(host: FakeHost) -> None:
    host.add()
    (host.sys / "kernel/security").mkdir()
    (host.sys / "kernel/security/lockdown").write_text("none [integrity] confidentiality\n")


def network_card(host: FakeHost) -> None:
    host.add(device=0x1041)


def not_virtio(host: FakeHost) -> None:
    host.add(vendor=0x8086)


def legacy(host: FakeHost) -> None:
    host.add(device=0x1001, subsystem=2, modern=False)


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (mounted, errno.EBUSY, "its disk is in use: vda is mounted at /srv; end that first"),
        (claimed, errno.EBUSY, "vda is claimed"),
        (foreign_driver, errno.EBUSY, "is bound to e1000e, which virtiod does not take devices from: unbind it first"),
        (no_vfio, errno.EOPNOTSUPP, "needs the kernel's driver vfio-pci, which is not loaded: `modprobe vfio-pci`"),
        (shared_group, errno.EBUSY, r"its IOMMU group 4 also has 0000:00:05.1 (virtio-pci)"),
        (locked_down, errno.EPERM, "kernel lockdown (integrity) forbids"),
        (network_card, errno.EOPNOTSUPP, "is a virtio-net device: only virtio-blk and virtio-scsi"),
        (not_virtio, errno.EOPNOTSUPP, "is no virtio device (8086:1042)"),
        (legacy, errno.EOPNOTSUPP, "has the legacy interface only"),
    ],
)
def test_a_refusal_says_what_to_do(host: FakeHost, make: Callable[[FakeHost], None], code: int, message: str) -> None:
    make(host)
    error = refusal(host)
    assert message in str(error)
    assert ADDRESS in str(error)
    assert error.errno == code
    assert host.writes == []


def test_without_permission_nothing_is_taken_from_the_kernel(host: FakeHost) -> None:
    host.add()
    message = str(refusal(host, allow_unbind=False))
    assert "`virtiod pci bind 0000:00:05.0`, or start virtiod with --allow-unbind" in message


def test_physical_addresses_need_huge_pages(host: FakeHost) -> None:
    host.add()
    assert "sysctl vm.nr_hugepages" in str(refusal(host, page_size=4096))


def test_an_iommu_needs_no_huge_pages(host: FakeHost) -> None:
    host.add(group=1)
    asyncio.run(take(host, page_size=4096).give_back())


def test_a_controller_of_another_kind_is_refused(host: FakeHost) -> None:
    host.add(device=0x1048)
    assert "its dev_type is scsi, not blk" in str(refusal(host, dev_type="blk"))


@pytest.mark.parametrize("peer", [None, "vfio-pci"])
def test_a_group_whose_other_devices_are_free_can_be_taken(host: FakeHost, peer: str | None) -> None:
    host.add(group=4)
    host.add("0000:00:05.1", group=4, driver=peer)
    asyncio.run(take(host).give_back())


def test_a_look_by_udev_is_waited_for(host: FakeHost) -> None:
    host.add(disks=("vda",))
    host.process(9, "udevd", "/dev/vda")
    later = threading.Timer(0.1, host.end, [9])
    later.start()
    asyncio.run(take(host).give_back())
    later.join()


def test_a_look_by_udev_that_does_not_end_is_a_use(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PASSING_S", 0.1)
    host.add(disks=("vda",))
    host.process(9, "udevd", "/dev/vda")
    assert "open in process 9 (udevd)" in str(refusal(host))


def test_nobody_can_claim_a_disk_while_its_device_is_taken(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(disks=("vda",))
    open_then: list[str] = []
    write = host.write

    def look(path: Path, text: str) -> None:
        if path.name == "unbind":
            open_then.extend(str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
        write(path, text)

    monkeypatch.setattr(host, "write", look)
    asyncio.run(take(host).give_back())
    assert str(host.dev / "vda") in open_then


@pytest.mark.parametrize(
    ("name", "code", "advice"),
    [
        ("unbind", errno.EACCES, "this needs root"),
        ("unbind", errno.EROFS, "sysfs must be mounted writable"),
        ("drivers_probe", errno.EPERM, "a kernel that is not locked down"),
    ],
)
def test_a_system_that_does_not_let_us_says_why(host: FakeHost, name: str, code: int, advice: str) -> None:
    host.add(group=1)
    host.errors[name] = code
    with pytest.raises(VirtiodError, match=advice) as caught:
        take(host)
    assert caught.value.errno == code


def test_a_device_that_vfio_does_not_take_goes_back_to_its_driver(host: FakeHost) -> None:
    host.add(group=1)
    host.stubborn.add("vfio-pci")
    error = refusal(host)
    assert isinstance(error, DeviceError)
    assert "vfio-pci did not take it" in str(error)


def test_a_group_without_access_goes_back_to_its_driver(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(group=1)
    (host.dev / "vfio/1").mkdir()  # opening it for writing fails
    assert "vfio/1: Is a directory" in str(refusal(host))


def test_a_kernel_that_hangs_is_given_up_and_undone_when_it_ends(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add()
    go_on = threading.Event()
    write = host.write

    def slow(path: Any, text: str) -> None:
        go_on.wait(PATIENCE_S)
        write(path, text)

    monkeypatch.setattr(host, "write", slow)
    monkeypatch.setattr(ownership, "DEADLINE_S", 0.1)
    with pytest.raises(DeadlineError, match=r"take 0000:00:05\.0: not done within 0\.1 s"):
        take(host)
    go_on.set()
    for thread in threading.enumerate():  # it has the kernel's driver before and after
        if thread.name.startswith("take "):
            thread.join(PATIENCE_S)
    wait_until(lambda: host.writes and host.driver() == "virtio-pci", "what was done to be undone")


# ---- by command


def test_bind_leaves_the_device_ready(host: FakeHost) -> None:
    host.add(group=2)
    assert ownership.bind(ADDRESS, host).driver == "vfio-pci"
    assert ownership.bind(ADDRESS, host).driver == "vfio-pci"
    asyncio.run(take(host, allow_unbind=False).give_back())


def test_bind_takes_the_devices_of_a_group_one_after_the_other(host: FakeHost) -> None:
    host.add(group=2)
    host.add("0000:00:05.1", group=2)
    ownership.bind("00:05.0", host)
    ownership.bind("00:05.1", host)
    asyncio.run(take(host, allow_unbind=False).give_back())


def test_bind_refuses_a_disk_in_use(host: FakeHost) -> None:
    mounted(host)
    with pytest.raises(Busy, match="mounted at /srv"):
        ownership.bind(ADDRESS, host)
    assert host.driver() == "virtio-pci"


def test_unbind_of_what_the_kernel_has_changes_nothing(host: FakeHost) -> None:
    host.add()
    assert ownership.unbind(ADDRESS, host).driver == "virtio-pci"
    assert host.writes == []


def test_unbind_refuses_a_foreign_driver_and_an_absent_device(host: FakeHost) -> None:
    foreign_driver(host)
    with pytest.raises(Busy, match="bound to e1000e"):
        ownership.unbind(ADDRESS, host)
    with pytest.raises(NotFound):
        ownership.unbind("00:06.0", host)


def test_a_group_that_is_open_elsewhere_is_not_given_to_the_kernel(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(group=2, driver="vfio-pci")
    real = os.open

    def busy(path: Any, flags: int) -> int:
        if Path(path).parent.name == "vfio":
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, flags)

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(Busy, match="a process has the IOMMU group 2 open"):
        ownership.unbind(ADDRESS, host)
    asyncio.run(take(host).give_back())  # that process may be this one, with another device of the group
    assert host.driver() == "vfio-pci"
