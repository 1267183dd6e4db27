"""How the daemon ends, in order or not, and what a client that ends costs."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.nbd_client import READ, WRITE, NbdClient
from tests.support.peers import requires, run
from tests.support.process import Daemon, RpcFailure, daemon, of_json, target
from tests.support.waiting import LOAD_S, PATIENCE_S, until, wait_until
from virtiod.target.blk.device import BlkDevice, DiskSpec
from virtiod.target.session import Session
from virtiod.target.target import Target

REQUESTS = 16
LONG_S = 4 * PATIENCE_S  # of an end that waits for what does not come, unless it is told to hurry


@contextmanager
def nbd_load(uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """qemu-img reading and writing over NBD for as long as the test wants."""
    requires("qemu-img")
    command = ["qemu-img", "bench", "-f", "raw", "-w", "-d", "32", "-c", "100000000", "-s", "4096", uri]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_answers_what_is_in_flight(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        virtiod.export()
        disk.pause()  # I/O is in flight when the signal comes
        load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=4, time_s=LOAD_S, force=True)
        with NbdClient(virtiod.nbd_socket, "V0") as client:
            for cookie in range(REQUESTS):
                client.send(WRITE if cookie % 2 else READ, cookie, cookie * 4096, 4096, b"x" * 4096 * (cookie % 2))
            wait_until(lambda: virtiod.iostat()["queue_depth"] == REQUESTS + 4, "all of the I/O in flight")
            virtiod.terminate()
            wait_until(lambda: "SIGTERM: stopping" in virtiod.log.read_text(), "the signal to be taken")
            disk.resume()
            replies = [client.reply() for _ in range(REQUESTS)]
            assert sorted(cookie for cookie, _, _ in replies) == list(range(REQUESTS))
            assert [error for _, error, _ in replies] == [0] * REQUESTS
            with pytest.raises(EOFError):
                client.reply()
        virtiod.ends()
        load.cancel()


def test_sigterm_ends_the_daemon_under_load(run_dir: Path) -> None:
    with target(run_dir, "--memory", "16M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        with nbd_load(virtiod.export()):
            load = virtiod.send("perform_tests", bdevs=["V0"], rw="verify", queue_depth=8, time_s=LOAD_S, force=True)
            virtiod.wait_busy(more=1000)
            virtiod.terminate()
            virtiod.ends()
        load.cancel()
        with daemon(run_dir) as again:  # the target is free for the next one
            again.attach(disk.socket)
            assert_works(again)


def test_the_target_sees_its_queues_stopped(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    get_vring_base = Session._get_vring_base

    async def note(self: Session, payload: bytes, fds: list[int]) -> bytes:
        stopped.append(payload[0])
        return await get_vring_base(self, payload, fds)

    monkeypatch.setattr(Session, "_get_vring_base", note)
    path = str(run_dir / "t.sock")

    async def main() -> None:
        served = Target({path: DiskSpec(size=1 << 20, memory=True, queues=2)})
        await served.start()
        process = Daemon(run_dir)
        try:
            await until(process.socket.exists)
            await asyncio.to_thread(process.call, "framework_wait_init")
            await asyncio.to_thread(process.attach, Path(path), vq_count=2)
            load = process.send("perform_tests", bdevs=["V0"], queue_depth=8, time_s=LOAD_S)
            device: BlkDevice = served.devices[path]
            await until(lambda: device.requests() > 100)
            process.terminate()
            await asyncio.to_thread(process.ends)
            load.cancel()
            assert stopped == [0, 1]
        finally:
            process.stop()
            await served.stop()

    asyncio.run(main())


def test_a_second_sigterm_hurries(run_dir: Path) -> None:
    silence = "--fault=silence,after=1"
    options = ("--shutdown-timeout", f"{LONG_S:g}", "--io-timeout", f"{LONG_S:g}")
    with target(run_dir, "--memory", "1M", silence) as disk, daemon(run_dir, *options) as virtiod:
        virtiod.attach(disk.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], queue_depth=4, time_s=LOAD_S)
        wait_until(lambda: virtiod.iostat()["queue_depth"] == 4, "I/O in flight")
        virtiod.terminate()
        wait_until(lambda: "SIGTERM: stopping" in virtiod.log.read_text(), "the first signal to be taken")
        virtiod.terminate()
        virtiod.ends(code=1)
        load.cancel()
    assert "did not end in order: a second signal came" in virtiod.log.read_text()
    assert "Traceback" not in virtiod.log.read_text()


def test_an_end_that_can_not_be_orderly_ends_all_the_same(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M", "--fault=silence,after=1") as disk:
        with daemon(run_dir, "--shutdown-timeout", "1", "--io-timeout", f"{LONG_S:g}") as virtiod:
            virtiod.attach(disk.socket)
            load = virtiod.send("perform_tests", bdevs=["V0"], queue_depth=4, time_s=LOAD_S)
            wait_until(lambda: virtiod.iostat()["queue_depth"] == 4, "I/O in flight")
            virtiod.terminate()
            virtiod.ends(code=1)
            load.cancel()
        assert "did not end in order: not within 1 s" in virtiod.log.read_text()


def test_a_daemon_that_was_killed_starts_again_on_its_sockets(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M") as disk:
        with daemon(run_dir) as virtiod:
            virtiod.attach(disk.socket)
            virtiod.export()
            virtiod.kill()
            assert virtiod.socket.exists()
        with daemon(run_dir) as again:
            again.attach(disk.socket)
            assert_works(again)
            run("nbdinfo", "--size", again.export())


def test_a_start_whose_configuration_fails_says_why(run_dir: Path) -> None:
    params = {"name": "V0", "trtype": "user", "traddr": "/x.sock", "dev_type": "blk", "vq_size": 3}
    calls = [{"method": "bdev_virtio_attach_controller", "params": params}]
    config = run_dir / "config.json"
    text = json.dumps({"subsystems": [{"subsystem": "bdev", "config": calls}]})
    config.write_text(text)
    column = 1 + text.index(" 3}") + 1
    virtiod = Daemon(run_dir, "--log-level", "ERROR", "-c", config)
    virtiod.ends(1)
    assert virtiod.log.read_text() == (
        f"virtiod: {config}:1:{column}: subsystems[0].config[0].params.vq_size (bdev_virtio_attach_controller): "
        "vq_size 3: must be a power of two from 4 to 1024\n"
    )


def test_two_daemons_can_not_have_one_socket(run_dir: Path) -> None:
    with daemon(run_dir) as virtiod:
        second = Daemon(run_dir)
        wait_until(lambda: second.process.poll() is not None, "the second to end")
        assert second.process.returncode == 1
        assert "in use" in second.log.read_text()
        assert virtiod.call("bdev_get_bdevs") == []


def test_an_nbd_client_that_is_killed_costs_its_connection_only(run_dir: Path) -> None:
    with target(run_dir, "--memory", "16M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        uri = virtiod.export()
        with NbdClient(virtiod.nbd_socket, "V0") as other, nbd_load(uri) as victim:
            wait_until(lambda: exported(virtiod)["connections"] == 2, "both clients to be connected")
            virtiod.wait_busy(more=500)
            victim.send_signal(signal.SIGKILL)
            wait_until(lambda: exported(virtiod)["connections"] == 1, "the connection to go")
            assert other.ask(READ, 0, 4096)[0] == 0
            assert virtiod.iostat()["queue_depth"] == 0


def exported(virtiod: Daemon) -> dict[str, Any]:
    (export,) = virtiod.call("nbd_get_exports")
    return of_json(export)


def test_an_rpc_client_that_does_not_read_costs_its_connection_only(run_dir: Path) -> None:
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rpc_get_methods"}).encode()
    with target(run_dir, "--memory", "1M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        load = virtiod.send("perform_tests", bdevs=["V0"], queue_depth=4, time_s=LOAD_S)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(virtiod.socket))
            deaf.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    deaf.send(request)
            for _ in range(20):
                virtiod.wait_busy(more=1)
            load.cancel()
            virtiod.terminate()
            virtiod.ends()


def assert_works(virtiod: Daemon) -> None:
    """A short verifying load succeeds."""
    (result,) = virtiod.call("perform_tests", bdevs=["V0"], rw="verify", total_bytes=1 << 20, queue_depth=4)["results"]
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)


def refused(virtiod: Daemon) -> bool:
    try:
        virtiod.call("bdev_get_bdevs")
    except (EOFError, OSError):
        return True
    except RpcFailure as refusal:
        assert refusal.code == -1, refusal
        return True
    return False


def test_calls_are_refused_when_the_end_has_begun(run_dir: Path) -> None:
    with target(run_dir, "--memory", "1M") as disk, daemon(run_dir) as virtiod:
        virtiod.attach(disk.socket)
        disk.pause()
        load = virtiod.send("perform_tests", bdevs=["V0"], queue_depth=4, total_bytes=4 * 4096)
        wait_until(lambda: virtiod.iostat()["queue_depth"] == 4, "I/O in flight")
        virtiod.terminate()
        wait_until(lambda: refused(virtiod), "a call to be refused")
        disk.resume()
        virtiod.ends()
        load.cancel()
