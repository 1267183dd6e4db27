"""What a SCSI unit or its host does wrong, and what those who do I/O see of it.

The table is the one of docs/operations.md: a test holds them together.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.scsi_host import ScsiHost, scsi_host
from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.process import Daemon, daemon, target
from tests.support.waiting import LOAD_S, wait_until

MIB = 1 << 20
NBD_EIO, NBD_ENOSPC, NBD_EPERM, NBD_EINVAL, NBD_ESHUTDOWN = 5, 28, 1, 22, 108


@dataclass(frozen=True)
class Case:
    """A fault of all READs and WRITEs; what a writer and an NBD client that writes see of it, and what the log says."""

    row: str  # how the table in the docs begins the line
    fault: str
    code: int  # errno, 0: nothing but time is lost
    nbd: int = 0
    log: str = ""


CASES = [
    Case("medium error", "sense,key=3,asc=11", errno.EIO, NBD_EIO, "medium error: unrecovered read error (3/11/00)"),
    Case("hardware error", "sense,key=4,asc=44", errno.EIO, NBD_EIO, "hardware error"),
    Case("not ready", "sense,key=2,asc=3a", errno.EIO, NBD_EIO, "not ready"),
    Case("write protected", "sense,key=7,asc=27", errno.EPERM, NBD_EPERM, "data protect"),
    Case("thin pool is full", "sense,key=7,asc=27,ascq=7", errno.ENOSPC, NBD_ENOSPC, "data protect"),
    Case("beyond its end", "sense,key=5,asc=21", errno.ENOSPC, NBD_ENOSPC, "illegal request"),
    Case("knows no such command", "sense,key=5,asc=20", errno.EOPNOTSUPP, NBD_EINVAL, "illegal request"),
    Case("no usable sense", "sense,key=3,length=2", errno.EIO, NBD_EIO, "check condition without"),
    Case("recovered", "sense,key=1,asc=17", 0),
    Case("deferred", "sense,key=3,asc=c,deferred=1,times=3", 0, 0, "deferred medium error: write error (3/0c/00)"),
    Case("unit attention", "sense,key=6,asc=29,times=3", 0, 0, "unit attention"),
    Case("CONDITION, becoming ready", "sense,key=2,asc=4,ascq=1,times=3", 0),
    Case("aborted command", "sense,key=b,times=3", 0),
    Case("BUSY", "status,value=8,times=3", 0),
    Case("TASK SET FULL", "status,value=28,times=3", 0),
    Case("a status that is not", "status,value=18", errno.EIO, NBD_EIO, "reservation conflict"),
    Case("a virtio response that is not", "response,value=9", errno.EIO, NBD_EIO, "failure"),
    Case("bus reset or busy", "response,value=5,times=3", 0),
    Case("no response at all", "no-response", errno.EIO, NBD_EIO, "no response written"),
]


def logged(virtiod: Daemon, start: int, words: str) -> bool:
    """Whether the log has the words, from so many characters on."""
    return words in virtiod.log.read_text()[start:]


def meet(virtiod: Daemon, host: ScsiHost, client: NbdClient, case: Case) -> None:
    """One write by the load generator and one over NBD, with the fault, and one of each after it."""
    for opcode in ("2a", "28"):
        host.do("fault", 0, 0, f"{case.fault},opcode={opcode}")
        rw = "randwrite" if opcode == "2a" else "randread"
        (result,) = virtiod.call("perform_tests", bdevs=["S0t0"], rw=rw, total_bytes=4096, queue_depth=1, force=True)[
            "results"
        ]
        assert result.get("first_error") == (os.strerror(case.code) if case.code else None), (case, result)
        assert result["io_failed"] == bool(case.code), (case, result)
    host.do("fault", 0, 0, f"{case.fault},opcode=2a")
    assert client.ask(WRITE, 0, data=b"n" * 4096) == (case.nbd, b""), case
    host.do("fault", 0, 0, "")
    assert client.ask(WRITE, 0, data=b"m" * 4096) == (0, b""), case
    assert client.ask(READ, 0, 4096) == (0, b"m" * 4096), case


def test_each_fault_becomes_what_the_caller_can_use(run_dir: Path) -> None:
    with scsi_host(run_dir, "0:0=1M,1:0=1M") as host, daemon(run_dir) as virtiod:
        virtiod.attach_scsi(host.socket)
        virtiod.export("S0t0")
        with NbdClient(virtiod.nbd_socket, "S0t0") as client:
            for case in CASES:
                before = len(virtiod.log.read_text())
                meet(virtiod, host, client, case)
                wait_until(partial(logged, virtiod, before, case.log), f"{case}")
        failed = sum(3 for case in CASES if case.code)
        assert sum(virtiod.iostat("S0t0")["io_error"].values()) == failed
        assert virtiod.controller("S0")["reconnects"] == 0
        assert "io_error" not in virtiod.iostat("S0t1") or not virtiod.iostat("S0t1")["io_error"]


def test_the_table_of_the_docs_is_this_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = page.partition("### What a SCSI LUN answers")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE)
    for case in CASES:
        (seen,) = [seen for what, seen in rows if case.row in what]
        name = errno.errorcode[case.code].replace("ENOTSUP", "EOPNOTSUPP") if case.code else "nothing"
        assert seen.startswith(name), case


def test_silence_ends_with_a_time_out_and_others_are_not_held_up(run_dir: Path) -> None:
    options = ("--io-timeout", "1")
    with scsi_host(run_dir, "0:0=1M,1:0=1M") as host, daemon(run_dir, *options) as virtiod:
        virtiod.attach_scsi(host.socket)
        virtiod.export("S0t0")
        other = virtiod.send("perform_tests", bdevs=["S0t1"], rw="verify", queue_depth=4, time_s=LOAD_S)
        with NbdClient(virtiod.nbd_socket, "S0t0") as client:
            host.do("fault", 0, 0, "silence,opcode=2a")
            assert client.ask(WRITE, 0, data=b"n" * 4096)[0] == NBD_EIO
            host.do("fault", 0, 0, "")
            assert client.ask(WRITE, 0, data=b"m" * 4096)[0] == 0
        assert virtiod.iostat("S0t0")["io_error"] == {"timeout": 1}
        assert virtiod.controller("S0")["reconnects"] == 0
        host.do("control", "silence")  # a host that does not abort is cut off
        host.do("fault", 0, 0, "silence,opcode=2a,times=1")
        (result,) = virtiod.call("perform_tests", bdevs=["S0t0"], rw="randwrite", total_bytes=4096)["results"]
        assert result["first_error"] == os.strerror(errno.ETIMEDOUT)
        wait_until(lambda: virtiod.controller("S0")["state"] == "up", "the controller to return")
        assert virtiod.controller("S0")["reconnects"] == 1
        host.do("control", "")
        virtiod.wait_busy("S0t1")
        assert virtiod.call("bdev_virtio_detach_controller", name="S0") is True
        (result,) = other.result()["results"]
        assert (result["io_failed"], result["io_mismatched"]) == (0, 0)


@pytest.mark.parametrize("kind", ["used-id", "used-index"])
def test_a_host_that_breaks_the_ring_is_connected_to_again(run_dir: Path, kind: str) -> None:
    with scsi_host(run_dir, "0:0=1M") as host, daemon(run_dir) as virtiod:
        virtiod.attach_scsi(host.socket)
        host.do("fault", 0, 0, f"{kind},opcode=2a,times=1")
        (result,) = virtiod.call("perform_tests", bdevs=["S0t0"], rw="verify", total_bytes=MIB)["results"]
        assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
        assert "the device wrote an invalid used ring" in virtiod.log.read_text()
        wait_until(lambda: virtiod.controller("S0")["reconnects"] == 1, "the return to be counted")


def test_a_host_that_dies_in_mid_io_leaves_it_to_its_successor(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(MIB)
    with daemon(run_dir) as virtiod:
        spec = f"0:0=file:{image}"
        with target(run_dir, "--scsi", spec, "--fault=death,after=100,opcode=2a") as dying:
            virtiod.attach_scsi(dying.socket)
            load = virtiod.send("perform_tests", bdevs=["S0t0"], rw="verify", queue_depth=4, total_bytes=MIB)
            wait_until(lambda: dying.process.poll() is not None, "the host to die")
        with target(run_dir, "--scsi", spec):
            (result,) = load.result()["results"]
            assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
            wait_until(lambda: virtiod.controller("S0")["reconnects"] == 1, "the return to be counted")
