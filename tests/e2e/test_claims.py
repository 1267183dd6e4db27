"""Who uses a bdev, with real clients: what the daemon tells of them, what a load that writes may do, and who is asked
before their use ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import requires
from tests.support.process import Daemon, RpcFailure, daemon, target
from tests.support.waiting import LOAD_S, PATIENCE_S, wait_until

WRITES = {"rw": "randwrite", "total_bytes": 1 << 20}
HOLD = "import nbd, sys\nh = nbd.NBD()\nh.connect_uri(sys.argv[-1])\nprint('in', flush=True)\nsys.stdin.readline()\n"


@contextmanager
def client_of(uri: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a connection of libnbd."""
    requires("nbdsh")
    words = ["/usr/bin/python3", "-c", HOLD, uri]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "in\n"
            yield process
        finally:
            process.kill()


def rpc(virtiod: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    """virtiod-rpc without a terminal."""
    command = [sys.executable, "-m", "rpc_client.cli", "-s", str(virtiod.socket), *words]
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
    )


def rpc_on_terminal(virtiod: Daemon, answer: str, *words: str) -> tuple[int, str]:
    """The exit status of virtiod-rpc, and what a person sees who types the answer when it is asked for one."""
    command = [sys.executable, "-m", "rpc_client.cli", "-s", str(virtiod.socket), *words]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown, asked = b"", False
    with suppress(OSError):  # EIO: it has ended
        while piece := os.read(terminal, 4096):
            shown += piece
            if b"[y/N]" in shown and not asked:
                asked = bool(os.write(terminal, answer.encode()))
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode().replace("\r\n", "\n")


def users(virtiod: Daemon, bdev: str = "N0") -> list[dict[str, Any]]:
    found = virtiod.bdev(bdev).get("users", [])
    assert isinstance(found, list)
    return found


def refused(virtiod: Daemon, **params: Any) -> str:
    """Why a load is."""
    with pytest.raises(RpcFailure) as caught:
        virtiod.call("perform_tests", bdevs=["N0"], **params)
    assert caught.value.code == -16
    return caught.value.message


def test_a_disk_that_a_client_has_open_is_not_written_over(run_dir: Path) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16)
        uri = virtiod.export("N0")
        idle = {"kind": "nbd", "name": "N0", "access": "none", "read_only": False, "clients": []}
        assert users(virtiod) == [idle]
        virtiod.call("perform_tests", bdevs=["N0"], **WRITES)
        with client_of(uri) as client:
            who = f"pid {client.pid} uid {os.getuid()}"
            assert users(virtiod) == [{**idle, "access": "write", "clients": [who]}]
            for rw in ("randwrite", "write", "randrw", "verify"):
                assert f"bdev N0 is in use by NBD export N0 of {who} (to write)" in refused(virtiod, rw=rw)
            assert virtiod.iostat("N0")["num_write_ops"] == 256  # of the load before
            for rw in ("randread", "read"):
                virtiod.call("perform_tests", bdevs=["N0"], rw=rw, total_bytes=1 << 20)
            virtiod.call("perform_tests", bdevs=["N0"], force=True, **WRITES)
            assert "load randwrite writes to bdev N0, by force" in virtiod.log.read_text()
            client.send_signal(signal.SIGKILL)
            wait_until(lambda: users(virtiod) == [idle], "the end of the claim")
        virtiod.call("perform_tests", bdevs=["N0"], **WRITES)


def test_what_is_exported_read_only_is_not_written_over(run_dir: Path) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16)
        virtiod.call("nbd_create_export", bdev_name="N0", name="disk", read_only=True)
        assert "exported read-only by NBD export disk" in refused(virtiod, **WRITES)
        virtiod.call("perform_tests", bdevs=["N0"], force=True, **WRITES)
        virtiod.call("nbd_delete_export", name="disk")
        virtiod.call("perform_tests", bdevs=["N0"], **WRITES)


def test_a_client_does_not_get_in_while_a_load_writes(run_dir: Path) -> None:
    requires("qemu-io", "nbdcopy")
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16)
        uri = virtiod.export("N0")
        read = ["qemu-io", "-f", "raw", "-c", "read 0 4k", uri]
        load = virtiod.send("perform_tests", bdevs=["N0"], rw="randwrite", time_s=LOAD_S)
        virtiod.wait_busy("N0")
        (user,) = (user for user in users(virtiod) if user["kind"] == "load")
        assert (user["name"], user["access"]) == ("randwrite", "write")
        assert "in use by load randwrite (to write)" in refused(virtiod, **WRITES)
        says = "its bdev is written by load randwrite (to write)"
        for command, told in ((read, says), (["nbdcopy", uri, "null:"], "policy")):
            late = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
            assert late.returncode != 0
            assert told in late.stderr + late.stdout
        assert f"NBD export N0: a client was refused: {says}" in virtiod.log.read_text()
        load.cancel()  # its client hangs up
        wait_until(lambda: [user["kind"] for user in users(virtiod)] == ["nbd"], "the end of the load")
        subprocess.run(read, check=True, timeout=PATIENCE_S)
        virtiod.send("perform_tests", bdevs=["N0"], rw="randwrite", time_s=LOAD_S, force=True)
        virtiod.wait_busy("N0")
        subprocess.run(read, check=True, timeout=PATIENCE_S)


ENDINGS = (
    ("nbd_delete_export", "disk", "export disk is in use: NBD export disk of pid"),
    ("bdev_null_delete", "N0", "bdev N0 is in use: NBD export disk of pid"),
    ("bdev_virtio_detach_controller", "V0", "controller V0 is in use: NBD export disk of pid"),
)


@pytest.mark.parametrize(("method", "name", "says"), ENDINGS)
def test_the_command_line_asks_before_it_ends_what_is_in_use(run_dir: Path, method: str, name: str, says: str) -> None:
    with target(run_dir) as disk, daemon(run_dir) as virtiod:
        if name == "V0":
            virtiod.attach(disk.socket)
        else:
            virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16)
        bdev = "V0" if name == "V0" else "N0"
        (uri,) = virtiod.call("nbd_create_export", bdev_name=bdev, name="disk")["uris"]
        with client_of(uri) as client:
            script = rpc(virtiod, method, name)
            assert (script.returncode, script.stdout) == (1, "")
            assert re.search(rf"{says} {client.pid} uid \d+.*; nothing was done \(--force ends it\)", script.stderr)
            for answer in ("n\n", "\n", "\x04", "what\n"):
                code, shown = rpc_on_terminal(virtiod, answer, method, name)
                assert code == 1
                assert says in shown and "nothing was done" in shown
            assert users(virtiod, bdev)[0]["access"] == "write"
            code, shown = rpc_on_terminal(virtiod, "y\n", method, name)
            assert code == 0
            assert f"{method}: cut off: NBD export disk of pid {client.pid} uid" in shown
        assert re.search(rf"NOTICE .* ends,? .*pid {client.pid} uid", virtiod.log.read_text())


@pytest.mark.parametrize(("method", "name", "says"), ENDINGS)
def test_scripts_use_force_and_are_not_asked_for_what_nobody_uses(
    run_dir: Path, method: str, name: str, says: str
) -> None:
    with target(run_dir) as disk, daemon(run_dir) as virtiod:
        bdev = "V0" if name == "V0" else "N0"

        def create() -> str:
            if bdev == "V0":
                if not virtiod.call("virtiod_get_controllers"):
                    virtiod.attach(disk.socket)
            else:
                virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16, uuid="6" * 32)
            (uri,) = virtiod.call("nbd_create_export", bdev_name=bdev, name="disk")["uris"]
            return str(uri)

        create()
        idle = rpc(virtiod, method, name)
        assert (idle.returncode, idle.stdout, idle.stderr) == (0, "", "")
        with client_of(create()) as client:
            forced = rpc(virtiod, "--json", method, name, "--force")
            assert (forced.returncode, json.loads(forced.stdout)) == (0, True)
            assert f"cut off: NBD export disk of pid {client.pid}" in forced.stderr
        with client_of(create()):  # by the method itself, as SPDK's client calls it
            assert virtiod.call(method, name=name) is True
        again = rpc(virtiod, method, name)
        assert again.returncode == 1
        assert "(-19)" in again.stderr


def test_a_load_is_in_the_way_too(run_dir: Path) -> None:
    with daemon(run_dir) as virtiod:
        virtiod.call("bdev_null_create", name="N0", num_blocks=1 << 16)
        load = virtiod.send("perform_tests", bdevs=["N0"], rw="randread", time_s=LOAD_S)
        virtiod.wait_busy("N0")
        assert "bdev N0 is in use: load randread; nothing was done" in rpc(virtiod, "bdev_null_delete", "N0").stderr
        assert "cut off: load randread" in rpc(virtiod, "bdev_null_delete", "N0", "--force").stderr
        assert [job["status"] for job in load.result()["results"]] == ["terminated"]


def test_a_load_whose_io_fails_fails_as_a_command(run_dir: Path) -> None:
    with target(run_dir, "--fault", "error,after=10,every=4") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        words = ("perform_tests", "-b", "V0", "-w", "randread", "--total-bytes", "1048576")
        failed = rpc(virtiod, *words)
        assert failed.returncode == 1
        assert re.search(r"perform_tests: V0: \d+ I/Os failed \(256 I/Os ended\)", failed.stderr)
        assert "V0" in failed.stdout
