"""Takes a device from its kernel driver, and gives it back.

A device whose owner was killed stays as it was: bound to vfio-pci, or kept from every driver. It can then be taken
again, and `virtiod pci unbind` gives it back to the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from virtiod.core.errors import Busy, ConnectError, DeviceError, VirtiodError
from virtiod.core.threads import in_thread
from virtiod.pci import checks
from virtiod.pci.checks import KERNEL_DRIVER, VFIO_DRIVER, fitting_drivers, way_of
from virtiod.pci.devices import PciDevice, find, parse_address
from virtiod.pci.disks import claim, disks_of
from virtiod.pci.host import Host, link, read

log = logging.getLogger(__name__)

DEADLINE_S = 8.0  # for the kernel to unbind or bind a device
PASSING_S = 2.0  # to wait for programs that open a disk only for a moment
PASSING_STEP_S = 0.05
NO_OVERRIDE = "\n"
KEEP_OFF = "virtiod"  # not the name of any driver: with this override no driver probes the device


class _Before(NamedTuple):
    """What a device was bound to, and its driver_override."""

    driver: str | None
    override: str


class Owned:
    """A device that this process owns until give_back(). way: "vfio", or "sysfs" with physical addresses."""

    def __init__(self, device: PciDevice, host: Host, lock: int, before: _Before | None) -> None:
        self.device = device
        self.way = way_of(device)
        self._host = host
        self._lock = lock
        self._before = before  # None: nothing was changed

    async def give_back(self) -> None:
        """Gives the device back to the driver that had it before. Idempotent; a failure is logged, with what to do.

        All that was opened and mapped of the device must have been closed: the kernel waits for it.
        """
        try:
            await in_thread(self.let_go, lambda _: None, DEADLINE_S, f"give back {self.device.address}")
        except VirtiodError as error:
            log.warning("%s; `virtiod pci unbind %s` tries it again", error, self.device.address)

    def let_go(self) -> None:
        """Does what give_back() does, but blocks. Raises VirtiodError."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        try:
            if self._before is not None and self.device.path.exists():
                _rebind(self._host, self.device, *self._before)
        finally:
            os.close(lock)

    def keep(self) -> PciDevice:
        """Ends the ownership, and leaves the device bound as it is."""
        lock, self._lock = self._lock, -1
        os.close(lock)
        return self.device


async def take(
    address: str,
    allow_unbind: bool,
    *,
    dev_type: str | None = None,
    page_size: int | None = None,
    host: Host | None = None,
) -> Owned:
    """Takes a device, by VFIO behind an IOMMU and through sysfs without one.

    It is taken from a driver only if allow_unbind, and never if one of its disks is in use. dev_type: what it must
    be; page_size: of the DMA memory it is to use, in bytes. Raises VirtiodError saying what is in the way and what to
    do; the device is as before then.
    """
    host = host or Host()

    def work() -> Owned:
        found = find(address, host)
        refuse(checks.unusable(found, host, dev_type))
        refuse(checks.small_pages(found, page_size) if page_size is not None else ())
        refuse(checks.unviable_group(found, host))
        return _take(found, allow_unbind, host)

    return await in_thread(work, Owned.let_go, DEADLINE_S, f"take {parse_address(address)}")


def bind(address: str, host: Host | None = None) -> PciDevice:
    """Makes a device ready for virtiod, so that it needs no --allow-unbind. Blocks. Raises VirtiodError."""
    host = host or Host()
    found = find(address, host)
    refuse(checks.unusable(found, host))
    return _take(found, True, host).keep()


def unbind(address: str, host: Host | None = None) -> PciDevice:
    """Gives a device back to the kernel's virtio driver. Blocks. Raises VirtiodError, Busy while it is in use."""
    host = host or Host()
    device = find(address, host)
    if not device.virtio_type:
        refuse(checks.unusable(device, host))
    if device.driver == KERNEL_DRIVER:
        return device
    if device.driver not in {None, VFIO_DRIVER, *checks.UIO_DRIVERS}:
        refuse(checks.bound_elsewhere(device, True))
    lock = _lock(device)
    try:
        if device.driver == VFIO_DRIVER and not _check_access(device, host):
            raise Busy(f"{device.address} is in use: a process has the IOMMU group {device.iommu_group} open")
        _rebind(host, device, KERNEL_DRIVER, NO_OVERRIDE)
    finally:
        os.close(lock)
    return find(address, host)


def refuse(reasons: Iterable[VirtiodError]) -> None:
    """Raises the first reason if there is one."""
    for reason in reasons:
        raise reason


def _take(found: PciDevice, allow_unbind: bool, host: Host) -> Owned:
    lock = _lock(found)
    before = None
    try:
        refuse(checks.bound_elsewhere(found, allow_unbind))
        fitting = fitting_drivers(way_of(found))
        if found.driver is None or found.driver not in fitting:
            before = _Before(found.driver, _override_of(found))
            _switch(found, fitting[0], before, host)
        owned = Owned(find(found.address, host), host, lock, before)
    except BaseException:
        os.close(lock)
        raise
    try:
        if owned.way == "vfio":
            _check_access(owned.device, host)
    except BaseException:
        owned.let_go()
        raise
    now = owned.device.driver
    if now != found.driver:
        log.info("%s: taken from %s, now bound to %s", found.address, found.driver or "no driver", now or "none")
    return owned


def _switch(found: PciDevice, driver: str | None, before: _Before, host: Host) -> None:
    """Binds the device to that driver. Its disks are claimed meanwhile, so that nobody can mount them."""
    with ExitStack() as claims:
        if found.driver is not None:
            _wait_for_quiet(found, host)
            claim(disks_of(found, host), host, claims)
        try:
            _rebind(host, found, driver, driver or KEEP_OFF)
        except VirtiodError as error:
            _undo(found.address, before, host, error)
            raise


def _undo(address: str, before: _Before, host: Host, failure: VirtiodError) -> None:
    """Leaves the device as it was before; a driver that has taken it meanwhile keeps it."""
    try:
        now = find(address, host)
        lost = now.driver is None and before.driver is not None
        _rebind(host, now, before.driver if lost else now.driver, before.override)
    except VirtiodError as error:
        if str(error) != str(failure):
            log.warning("%s; `virtiod pci unbind %s` tries it again", error, address)


def _wait_for_quiet(device: PciDevice, host: Host) -> None:
    """Returns when nothing uses its disks. Raises Busy; waits only for uses that are passing."""
    deadline = time.monotonic() + PASSING_S
    while True:
        disks = disks_of(device, host)
        uses = [use for disk in disks for use in disk.uses]
        if not uses:
            return
        if any(not use.passing for use in uses) or time.monotonic() > deadline:
            refuse(checks.in_use(device, disks))
        time.sleep(PASSING_STEP_S)


def _rebind(host: Host, device: PciDevice, driver: str | None, override: str) -> None:
    """Binds the device to that driver. Raises Busy if it is bound to another driver than when it was read."""
    # The kernel writes it under the device's lock: a probe that was under way, as of a new device, is over then.
    _write(host, device.path / "driver_override", override)
    current = link(device.path / "driver")
    if current != device.driver:
        raise Busy(f"{device.address}: {current or 'no driver'} has it now, and not {device.driver or 'no driver'}")
    if current == driver:
        return
    if current is not None:
        _write(host, device.path / "driver/unbind", device.address)
    if driver is None:
        return
    _write(host, host.sys / "bus/pci/drivers_probe", device.address)
    now = link(device.path / "driver")
    if now != driver:
        raise DeviceError(
            f"{device.address}: {driver} did not take it, it is bound to {now or 'no driver'}; `dmesg` may say why, or "
            f"the module is not loaded (`modprobe {driver}`)"
        )


def _override_of(device: PciDevice) -> str:
    """The driver_override to write back; "" in place of one that a killed owner left."""
    found = read(device.path / "driver_override")
    return NO_OVERRIDE if found in {"", "(null)", KEEP_OFF} else found


def _write(host: Host, path: Path, text: str) -> None:
    try:
        host.write(path, text)
    except OSError as error:
        advice = {
            errno.EACCES: ": this needs root",
            errno.EPERM: ": this needs root, and a kernel that is not locked down",
            errno.EROFS: ": sysfs must be mounted writable",
        }.get(error.errno or 0, "")
        raise VirtiodError(f"write {text.strip()!r} to {path}: {error.strerror}{advice}", error.errno) from error


def _lock(device: PciDevice) -> int:
    """Keeps other virtiods from the device while the returned file descriptor is open. Raises Busy."""
    path = device.path / "config"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConnectError(f"{device.address}: open {path}: {error.strerror}", error.errno) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise Busy(f"{device.address} is in use by virtiod: detach its controller first") from error
    return fd


def _check_access(device: PciDevice, host: Host) -> bool:
    """Whether nobody has the VFIO group open; one process at a time may. Raises ConnectError without permission."""
    path = host.dev / f"vfio/{device.iommu_group}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False  # perhaps this process, with another device of the group
        advice = {
            errno.EACCES: f": give virtiod's user access (`chown USER {path}`, or a udev rule)",
            errno.EPERM: ": in a systemd unit, DeviceAllow= must name it",
        }.get(error.errno or 0, "")
        raise ConnectError(f"{device.address}: open {path}: {error.strerror}{advice}", error.errno) from error
    return True
