"""The package installed on a machine whose init is systemd: start, reload, watchdog, stop, and who may run it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Entry, attach, export, null, write_config
from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.process import Pending
from tests.support.waiting import LOAD_S, PATIENCE_S, wait_until
from tests.systemd.machine import ROOT, Failed, Machine

CONFIG = "/etc/virtiod/virtiod.json"
DROP_INS = "/run/systemd/system/virtiod.service.d"
WATCHDOG_S = 4

pytestmark = pytest.mark.timeout(1800)  # the first test builds the package, and the machine's image


def rpc(machine: Machine, method: str, *words: str) -> Any:
    return json.loads(machine.run("virtiod-rpc", "--json", method, *words))


def configure(machine: Machine, run_dir: Path, *entries: Entry) -> None:
    machine.copy(write_config(run_dir / "c", *entries), CONFIG)


def begin(machine: Machine, run_dir: Path, *entries: Entry) -> None:
    """A daemon with this configuration and nothing else."""
    machine.run("systemctl", "stop", "virtiod.socket", "virtiod")
    machine.run("rm", "-rf", DROP_INS, "/var/lib/virtiod/state.json")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed")
    configure(machine, run_dir, *entries)


def status(machine: Machine) -> str:
    return machine.show("virtiod", "StatusText")["StatusText"]


def until_status(machine: Machine, expected: str) -> None:
    wait_until(lambda: status(machine) == expected, f"{expected!r}, not {status(machine)!r}", PATIENCE_S)


def start_target(machine: Machine, name: str, *options: str, user: str = "root") -> Path:
    """A unit that serves a disk; the path of its socket."""
    properties = [f"--property={one}" for one in (f"RuntimeDirectory={name}", f"User={user}", "Type=exec")]
    socket = Path(f"/run/{name}/disk.sock")
    machine.run("systemd-run", f"--unit={name}", *properties, "/usr/bin/virtiod", "target", socket, *options)
    return socket


@contextmanager
def load(machine: Machine, bdev: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A verifying load through RPC, which prints its result in the end."""
    words = ["perform_tests", "--bdevs", bdev, "--rw", "verify", "--queue-depth", "4", "--time-s", f"{seconds:g}"]
    command = machine.command("virtiod-rpc", "--json", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def operations(machine: Machine, bdev: str) -> int:
    (stat,) = rpc(machine, "bdev_get_iostat", "--names", bdev)["bdevs"]
    return int(stat["num_read_ops"] + stat["num_write_ops"])


def until_busy(machine: Machine, bdev: str) -> None:
    before = operations(machine, bdev)
    wait_until(lambda: operations(machine, bdev) > before + 100, f"I/O on {bdev}", PATIENCE_S)


@pytest.fixture(scope="module")
def disks(machine: Machine) -> tuple[Path, Path]:
    return start_target(machine, "one", "--memory", "16M"), start_target(machine, "two", "--memory", "16M")


# ---- the package


def test_the_package_installs_starts_and_says_so(machine: Machine) -> None:
    assert machine.show("virtiod", "ActiveState", "SubState", "UnitFileState") == {
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
    }
    assert status(machine) == "0 controllers up; 0 bdevs, 0 exports"
    assert 'Status: "0 controllers up; 0 bdevs, 0 exports"' in machine.run("systemctl", "status", "virtiod")
    assert machine.run("stat", "-c", "%a %U %G", "/run/virtiod/virtiod.sock") == "660 root virtiod\n"
    assert rpc(machine, "spdk_get_version")["version"].startswith("virtiod v")
    units = machine.run("sh", "-c", "ls /lib/systemd/system/virtiod*").split()
    assert len(units) == 5
    assert machine.run("sh", "-c", f"systemd-analyze verify {' '.join(units)} 2>&1") == ""
    for example in (ROOT / "docs" / "examples").iterdir():
        machine.run("virtiod", "check-config", f"/usr/share/doc/virtiod/examples/{example.name}")


def test_sandboxed_pollers_are_pinned(machine: Machine) -> None:
    (reactor,) = rpc(machine, "framework_get_reactors")["reactors"]
    pid = machine.show("virtiod", "MainPID")["MainPID"]
    thread = machine.run("cat", f"/proc/{pid}/task/{reactor['tid']}/status")
    assert f"\nCpus_allowed_list:\t{reactor['lcore']}\n" in thread
    assert "\nSeccomp:\t2\n" in thread
    assert "\nNoNewPrivs:\t1\n" in thread


# ---- configuration


def test_a_controller_of_the_configuration_is_attached_also_when_its_target_comes_late(
    machine: Machine, run_dir: Path, disks: tuple[Path, Path]
) -> None:
    late = Path("/run/late/disk.sock")
    begin(machine, run_dir, attach("V0", disks[0]), attach("L0", late), export("V0"), export("L0"))
    machine.run("systemctl", "start", "virtiod")  # which waits for its readiness
    assert status(machine) == "1 controller up, 1 attaching; 1 bdev, 1 export; 1 call waiting for a bdev"
    start_target(machine, "late", "--memory", "1M")
    until_status(machine, "2 controllers up; 2 bdevs, 2 exports")
    entry = json.loads(machine.journal("-o", "json", "-n", "1", "CONTROLLER=L0", "PRIORITY=5"))
    assert (entry["_SYSTEMD_UNIT"], entry["LOGGER"]) == ("virtiod.service", "virtiod.controllers.controller")
    assert entry["MESSAGE"] == "controller L0: attaching -> up"
    machine.run("systemctl", "stop", "late")


def test_a_reload_with_one_more_and_one_less_leaves_the_load_alone(
    machine: Machine, run_dir: Path, disks: tuple[Path, Path]
) -> None:
    begin(machine, run_dir, attach("V0", disks[0]), null("N0"), export("V0"))
    machine.run("systemctl", "start", "virtiod")
    until_status(machine, "1 controller up; 2 bdevs, 1 export")
    pid = machine.show("virtiod", "MainPID")
    with load(machine, "V0", LOAD_S) as process:
        until_busy(machine, "V0")
        configure(machine, run_dir, attach("V0", disks[0]), attach("V1", disks[1]), export("V0"), export("V1"))
        machine.run("systemctl", "reload", "virtiod")
        until_status(machine, "2 controllers up; 2 bdevs, 2 exports")
        until_busy(machine, "V0")
        configure(machine, run_dir, attach("V0", disks[0]), attach("V1", disks[1]), null("N1", -1), export("V0"))
        with pytest.raises(Failed, match=r"virtiod\.service"):  # one entry of it is wrong
            machine.run("systemctl", "reload", "virtiod")
        wait_until(lambda: "1 of the configuration failed" in status(machine), "the status to say so", PATIENCE_S)
        configure(machine, run_dir, attach("V0", disks[0]), attach("V1", disks[1]), export("V0"))
        machine.run("kill", "-HUP", pid["MainPID"])  # the other way
        until_status(machine, "2 controllers up; 2 bdevs, 1 export")
        until_busy(machine, "V0")
        assert rpc(machine, "bdev_virtio_detach_controller", "V0", "--force") is True  # which ends the load
        output, _ = process.communicate(timeout=PATIENCE_S)
    (result,) = json.loads(output)["results"]
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("terminated", 0, 0)
    assert result["iops"] > 100
    assert machine.show("virtiod", "MainPID") == pid


# ---- watchdog


@pytest.mark.parametrize("what", ["process", "poller"])
def test_what_stands_still_is_restarted_and_the_state_is_back(
    machine: Machine, run_dir: Path, disks: tuple[Path, Path], what: str
) -> None:
    begin(machine, run_dir, attach("V0", disks[0]), export("V0"))
    machine.write(f"{DROP_INS}/watchdog.conf", f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "virtiod")
    rpc(machine, "bdev_virtio_attach_controller", "V1", "-t", "user", "-a", str(disks[1]), "-d", "blk")
    rpc(machine, "bdev_null_create", "N0", "2048")
    rpc(machine, "nbd_create_export", "V1", "--name", "by-rpc")
    until_status(machine, "2 controllers up; 3 bdevs, 2 exports")
    pid = machine.show("virtiod", "MainPID")["MainPID"]
    (reactor,) = rpc(machine, "framework_get_reactors")["reactors"]
    if what == "process":
        machine.run("kill", "-STOP", pid)
        wait_until(lambda: machine.show("virtiod", "MainPID")["MainPID"] not in {pid, "0"}, "a restart", PATIENCE_S)
    else:
        machine.copy(ROOT / "tests" / "support" / "hold_thread.py", "/srv/hold_thread.py")
        command = machine.command("python3", "/srv/hold_thread.py", str(reactor["tid"]))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            wait_until(lambda: machine.show("virtiod", "MainPID")["MainPID"] not in {pid, "0"}, "a restart", PATIENCE_S)
            holder.communicate(timeout=PATIENCE_S)
        assert "poller_0 has not completed a round for" in machine.journal("-u", "virtiod", f"_PID={pid}")
    until_status(machine, "2 controllers up; 3 bdevs, 2 exports")
    assert machine.show("virtiod", "NRestarts")["NRestarts"] == "1"
    assert "Watchdog timeout" in machine.journal("-u", "virtiod")
    exports = {one["name"]: one["bdev_name"] for one in rpc(machine, "nbd_get_exports")}
    assert exports == {"V0": "V0", "by-rpc": "V1"}


# ---- the end


def test_a_stop_drains(machine: Machine, run_dir: Path) -> None:
    slow = start_target(machine, "slow", "--memory", "1M")
    begin(machine, run_dir, attach("S0", slow), export("S0"))
    machine.run("systemctl", "start", "virtiod")
    # Seen from here: starting a command in there takes time.
    sockets = Path("/proc", str(machine.pid), "root/run/virtiod")
    path = sockets / "virtiod-nbd.sock"

    def in_flight() -> int:
        return int(Pending(sockets / "virtiod.sock", "bdev_get_iostat", {}).result()["bdevs"][0]["queue_depth"])

    with NbdClient(path, "S0") as client:
        machine.run("systemctl", "kill", "--signal=STOP", "slow")
        for cookie in range(16):
            client.send(WRITE, cookie, cookie * 4096, data=bytes([cookie]) * 4096)
        wait_until(lambda: in_flight() == 16, "all of it in flight")
        with subprocess.Popen(machine.command("systemctl", "stop", "virtiod")) as stopping:
            wait_until(lambda: "SIGTERM: stopping" in machine.journal("-u", "virtiod", "-n", "5"), "the end to begin")
            machine.run("systemctl", "kill", "--signal=CONT", "slow")
            assert sorted(client.reply()[:2] for _ in range(16)) == [(cookie, 0) for cookie in range(16)]
            with pytest.raises(EOFError):
                client.reply()
            assert stopping.wait(PATIENCE_S) == 0
    assert machine.show("virtiod", "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    log = machine.journal("-u", "virtiod", "-n", "40")
    assert "SIGTERM: stopping" in log
    assert "1 controller detached: all requests in flight were answered" in log
    machine.run("systemctl", "start", "virtiod")
    with NbdClient(path, "S0") as client:
        for cookie in range(16):
            client.send(READ, cookie, cookie * 4096, 4096)
        replies = sorted(client.reply() for _ in range(16))
    assert replies == [(cookie, 0, bytes([cookie]) * 4096) for cookie in range(16)]


# ---- sockets, users


def test_clients_of_its_sockets_start_it(machine: Machine, run_dir: Path) -> None:
    begin(machine, run_dir)
    machine.run("systemctl", "start", "virtiod.socket", "virtiod-http.socket", "virtiod-nbd.socket")
    assert machine.show("virtiod", "ActiveState")["ActiveState"] == "inactive"
    get = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9799/healthz', timeout=60).read().decode())"
    wait_until(lambda: _is_healthy(machine, get), "health", PATIENCE_S)
    assert machine.show("virtiod", "ActiveState")["ActiveState"] == "active"
    assert machine.run("stat", "-c", "%a %G", "/run/virtiod/virtiod-nbd.sock") == "660 virtiod\n"
    rpc(machine, "bdev_null_create", "N0", "2048")
    rpc(machine, "nbd_create_export", "N0")
    assert machine.run("nbdinfo", "--size", "nbd+unix:///N0?socket=/run/virtiod/virtiod-nbd.sock") == "1048576\n"
    machine.run("systemctl", "stop", "virtiod")
    assert rpc(machine, "framework_wait_init") is True  # started again, by RPC
    assert rpc(machine, "bdev_null_delete", "N0") is True  # which its state had brought back
    machine.run("systemctl", "stop", "virtiod", "virtiod-http.socket", "virtiod-nbd.socket")


def _is_healthy(machine: Machine, get: str) -> bool:
    try:
        return machine.run("python3", "-c", get) == "ok\n\n"
    except Failed:  # 503 until it is initialised
        return False


def test_it_runs_without_root(machine: Machine, run_dir: Path) -> None:
    disk = start_target(machine, "theirs", "--memory", "1M", user="virtiod")
    begin(machine, run_dir, attach("U0", disk), export("U0"))
    example = "/usr/share/doc/virtiod/examples/systemd/user.conf"
    machine.run("install", "-D", "-m", "644", example, f"{DROP_INS}/user.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "virtiod")
    assert status(machine) == "1 controller up; 1 bdev, 1 export"
    pid = machine.show("virtiod", "MainPID")["MainPID"]
    assert machine.run("ps", "-o", "user=", "-p", pid).strip() == "virtiod"
    assert re.search(r"\nCapEff:\t0+\n", machine.run("cat", f"/proc/{pid}/status"))
    with load(machine, "U0", 1) as process:
        (result,) = json.loads(process.communicate(timeout=PATIENCE_S)[0])["results"]
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)
    rpc(machine, "bdev_null_create", "N0", "2048")
    machine.run("systemctl", "restart", "virtiod")
    assert status(machine) == "1 controller up; 2 bdevs, 1 export"  # its state is its own


# ---- the package, again


def test_it_can_be_removed_and_leaves_what_is_the_operators(machine: Machine) -> None:
    machine.run("dpkg", "--remove", "virtiod")
    assert machine.show("virtiod", "ActiveState", "LoadState")["ActiveState"] != "active"
    left = machine.run("sh", "-c", "ls /usr/bin/virtiod /usr/lib/virtiod /run/virtiod/virtiod.sock 2>/dev/null || true")
    assert left == ""
    assert machine.run("ls", "/etc/virtiod") == "virtiod.env\nvirtiod.json\n"
