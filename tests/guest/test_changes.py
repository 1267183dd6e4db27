"""What happens to a device in use: it is removed by force, or its daemon is killed; and it has company."""

from __future__ import annotations

import hashlib
import itertools
import signal
import struct
from pathlib import Path

import pytest

from tests.guest.devices import MIB
from tests.guest.inside import Host
from tests.guest.pci import (
    SYSFS,
    PciDaemon,
    address_of,
    check_given_back,
    driver_of,
    pci_daemon,
    virtiod_command,
)
from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.process import RpcFailure, target
from tests.support.waiting import LOAD_S, wait_until

BLOCK = 4096
ENOSPC = 28
NUMBERS = itertools.count()


def test_a_pci_and_a_vhost_user_controller_serve_side_by_side(run_dir: Path) -> None:
    address = address_of("busy")
    with target(run_dir, "--memory", "8M") as disk, pci_daemon(run_dir) as virtiod:
        assert virtiod.attach_pci(address, "P0") == ["P0"]
        virtiod.attach(disk.socket, "V0")
        loads = {"rw": "verify", "queue_depth": 8, "total_bytes": MIB // 2}
        results = virtiod.call("perform_tests", bdevs=["P0", "V0"], **loads)["results"]
        assert [(r["status"], r["io_failed"], r["io_mismatched"]) for r in results] == [("finished", 0, 0)] * 2
        virtiod.detach("P0")
        virtiod.verify("V0", total_bytes=MIB // 2)
    check_given_back(address)


def test_a_device_that_the_kernel_removes_by_force_ends_its_io_and_nothing_else(run_dir: Path) -> None:
    """As far as an emulated machine can be without the politeness of hot-unplug."""
    address = address_of("twoqueues")
    with pci_daemon(run_dir) as virtiod:
        virtiod.attach_pci(address)
        virtiod.attach_pci(address_of("busy"), "V1")
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="randread", queue_depth=4, time_s=LOAD_S)
        virtiod.wait_busy()
        (SYSFS / address / "remove").write_text("1")
        (result,) = load.result()["results"]
        assert (result["status"], result["first_error"]) == ("terminated", "No such device"), result
        virtiod.verify("V1")
        virtiod.detach("V1")
    (SYSFS.parent / "rescan").write_text("1")
    wait_until(lambda: driver_of(address) == "virtio-pci", "the device to be back")


def acknowledged_writes(virtiod: PciDaemon, bdev: str, kill_after: int, base: int) -> dict[int, bytes]:
    """Writes that were answered until the daemon was killed amid them, by offset."""
    written: dict[int, bytes] = {}
    sent: dict[int, bytes] = {}
    with NbdClient(virtiod.nbd_socket, bdev) as client:
        for number in range(10 * kill_after):
            data = struct.pack("<Q", number) * (BLOCK // 8)
            sent[number] = data
            try:
                client.send(WRITE, number, base + number * BLOCK, data=data)
                if number >= 8:
                    cookie, error, _ = client.reply()
                    assert error == 0
                    written[base + cookie * BLOCK] = sent[cookie]
            except (EOFError, OSError):
                break
            if number == kill_after:
                virtiod.process.send_signal(signal.SIGKILL)
    return written


def test_a_killed_daemon_loses_no_write_that_it_acknowledged(run_dir: Path, host: Host, variant: str) -> None:
    address, base = address_of("busy"), 8 * MIB
    with pci_daemon(run_dir) as virtiod:
        virtiod.attach_pci(address)
        virtiod.export()
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="randread", queue_depth=8, time_s=LOAD_S)
        virtiod.wait_busy()
        written = acknowledged_writes(virtiod, "V0", 64, base)
        virtiod.process.wait(10)
        with pytest.raises((EOFError, OSError, RpcFailure)):
            load.result()
    assert len(written) > 32
    with pci_daemon(run_dir) as virtiod:
        virtiod.attach_pci(address)
        virtiod.export()
        extent = max(written) + BLOCK - base
        with NbdClient(virtiod.nbd_socket, "V0") as client:
            error, found = client.ask(READ, base, extent)
        assert error == 0
        for offset, data in written.items():
            assert found[offset - base : offset - base + BLOCK] == data
        assert host.digest("busy", base, extent) == hashlib.sha256(found).hexdigest()
        virtiod.verify("V0")
        virtiod.detach()
    assert driver_of(address) == ("vfio-pci" if variant == "iommu" else "")  # as it was when it was attached again
    assert virtiod_command(run_dir, "pci", "unbind", address).startswith(f"{address} is bound to virtio-pci: vd")
    check_given_back(address)
