"""Targets that hang, and do later what they were asked: nobody else's data and rings are in reach of them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.nbd_client import FLUSH, READ, WRITE, NbdClient
from tests.support.peers import Peer, storage_daemon
from tests.support.process import Daemon, target
from tests.support.rest import recovering
from tests.support.waiting import wait_until

MIB = 1 << 20
EIO, ENOMEM = 5, 12

pytestmark = pytest.mark.waits


def late_target(stack: ExitStack, run_dir: Path, within_ms: int, *options: str | Path) -> Peer:
    """One that answers GET_ID and nothing else, does not stop, and does all of it within that time from then on."""
    fault = ("--fault=silence,after=1", f"--late-dma={within_ms}")
    return stack.enter_context(target(run_dir, "--memory", "1M", *fault, *options, name="late"))


def quarantined(virtiod: Daemon, name: str) -> dict[str, int]:
    nothing = {"sessions": 0, "small_bytes": 0, "large_bytes": 0, "memory_bytes": 0}
    found: dict[str, int] = virtiod.controller(name).get("quarantine", nothing)
    return found


def verify(virtiod: Daemon, name: str) -> None:
    (result,) = virtiod.call(
        "perform_tests", bdevs=[name], force=True, rw="verify", queue_depth=16, total_bytes=8 * MIB
    )["results"]
    assert (result["status"], result["io_failed"], result["io_mismatched"]) == ("finished", 0, 0)


def late_and_other(stack: ExitStack, run_dir: Path, virtiod: Daemon, late_ms: int) -> Peer:
    """Export A of a target that hangs and answers so late, which is returned, and export B of another one."""
    late = late_target(stack, run_dir, late_ms)
    other = stack.enter_context(target(run_dir, "--memory", "1M", name="other"))
    for name, peer in (("A", late), ("B", other)):
        virtiod.attach(peer.socket, name)
        virtiod.export(name)
    return late


def test_what_a_hung_target_does_late_reaches_no_other_disk(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "1") as virtiod:
        late = late_and_other(stack, run_dir, virtiod, 1500)
        a = stack.enter_context(NbdClient(virtiod.nbd_socket, "A"))
        b = stack.enter_context(NbdClient(virtiod.nbd_socket, "B"))
        for cookie in range(4):
            a.send(READ, cookie, 65536 * cookie, 65536)
        assert {a.reply()[1] for _ in range(4)} == {EIO}
        wait_until(lambda: virtiod.controller("A")["reconnects"] == 1, "a new session")
        held = quarantined(virtiod, "A")
        assert (held["sessions"], held["large_bytes"]) == (1, 4 * 65536)
        for cookie in range(100):  # while the reads of the old session are done
            data = bytes([cookie + 1]) * 65536
            assert b.ask(WRITE, 0, data=data) == (0, b"")
            assert b.ask(READ, 0, 65536) == (0, data)
        verify(virtiod, "B")
        assert virtiod.controller("B")["reconnects"] == 0
        assert "invalid used ring" not in virtiod.log.read_text()
        late.kill()
        wait_until(lambda: quarantined(virtiod, "A")["sessions"] == 0, "the old session to be over")
        assert not any(quarantined(virtiod, "A").values())
        assert b.ask(READ, 0, 4096)[0] == 0


def test_a_detached_target_that_hangs_leaves_its_rings_to_no_other_controller(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "0") as virtiod:
        late = late_target(stack, run_dir, 1500)
        other = stack.enter_context(target(run_dir, "--memory", "1M", name="other"))
        virtiod.attach(late.socket, "A")
        virtiod.export("A")
        client = stack.enter_context(NbdClient(virtiod.nbd_socket, "A"))
        client.send(READ, 1, 0, 65536)
        wait_until(lambda: virtiod.controller("A")["queues"][0]["in_flight"], "the read to be in flight")
        assert virtiod.call("bdev_virtio_detach_controller", name="A") is True
        virtiod.attach(other.socket, "B")
        verify(virtiod, "B")
        assert virtiod.controller("B")["reconnects"] == 0
        assert "invalid used ring" not in virtiod.log.read_text()
        late.kill()
        wait_until(lambda: "leave quarantine" in virtiod.log.read_text(), "the old session to be over")


@pytest.mark.programs
def test_a_target_that_only_stalled_gives_back_what_it_had(run_dir: Path) -> None:
    """It was stopped for longer than an I/O and its own stopping may take, twice, and lives on."""
    disk = f"driver=null-co,size={MIB},read-zeroes=on"
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "1") as virtiod:
        stalls = stack.enter_context(storage_daemon(run_dir, disk))
        virtiod.attach(stalls.socket)
        virtiod.export()
        client = stack.enter_context(NbdClient(virtiod.nbd_socket, "V0"))
        for _ in range(2):
            stalls.pause()
            assert client.ask(WRITE, 0, data=b"w" * 65536)[0] == EIO
            wait_until(lambda: quarantined(virtiod, "V0")["sessions"] == 1, "what it had to be in quarantine")
            stalls.resume()
            wait_until(lambda: quarantined(virtiod, "V0")["sessions"] == 0, "what it had to come back")
            wait_until(lambda: virtiod.controller()["state"] == "up", "a new session")
            assert not any(quarantined(virtiod, "V0").values())
            assert client.ask(READ, 0, 4096) == (0, bytes(4096))
        assert "it stopped its rings late" in virtiod.log.read_text()
        assert stalls.process.poll() is None


def test_a_write_in_flight_with_a_hung_target_is_not_repeated_until_that_is_gone(run_dir: Path) -> None:
    image = run_dir / "disk.img"
    with image.open("wb") as file:
        file.truncate(MIB)
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "0") as virtiod:
        fault = ("--fault=silence,after=1", "--late-dma=3600000")
        hung = stack.enter_context(target(run_dir, "--file", image, *fault, name="t"))
        virtiod.attach(hung.socket)
        virtiod.export()
        client = stack.enter_context(NbdClient(virtiod.nbd_socket, "V0"))
        client.send(WRITE, 1, 0, data=b"w" * 4096)
        wait_until(lambda: virtiod.controller()["queues"][0]["in_flight"], "the write to be in flight")
        hung.kill()
        stack.enter_context(target(run_dir, "--file", image, name="t"))
        assert client.reply() == (1, 0, b"")
        assert image.read_bytes()[:4096] == b"w" * 4096
        assert not any(quarantined(virtiod, "V0").values())


def test_one_hung_target_leaves_buffers_to_the_exports_of_others(run_dir: Path) -> None:
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "1") as virtiod:
        late = late_and_other(stack, run_dir, virtiod, 3_600_000)
        b = stack.enter_context(NbdClient(virtiod.nbd_socket, "B"))
        clients = [stack.enter_context(NbdClient(virtiod.nbd_socket, "A")) for _ in range(8)]
        for client in clients:  # 64 MiB: more than the pool has
            for cookie in range(128):
                client.send(READ, cookie, 0, 65536)
        assert b.ask(READ, 0, MIB)[0] == 0
        # Those beyond its share are refused when what it has is in quarantine.
        assert {client.reply()[1] for client in clients} <= {EIO, ENOMEM}
        wait_until(lambda: quarantined(virtiod, "A")["large_bytes"] > 10 * MIB, "what it had to be in quarantine")
        assert b.ask(READ, 0, MIB)[0] == 0
        verify(virtiod, "B")
        late.kill()
        wait_until(lambda: quarantined(virtiod, "A")["large_bytes"] == 0, "the buffers to come back")


def test_nothing_is_written_again_to_the_process_that_stopped_in_order(run_dir: Path) -> None:
    """It has a volatile cache, and answers two requests of each session, and messages."""
    image = run_dir / "disk.img"
    image.write_bytes(bytes(MIB))
    with ExitStack() as stack, recovering(run_dir, "--io-timeout", "1") as virtiod:
        options = ("--file", image, "--cache")
        silent = stack.enter_context(target(run_dir, *options, "--fault=silence,after=2"))
        virtiod.attach(silent.socket)
        virtiod.export()
        client = stack.enter_context(NbdClient(virtiod.nbd_socket, "V0"))
        assert client.ask(WRITE, 0, data=b"w" * 4096) == (0, b"")
        assert client.ask(READ, 0, 4096)[0] == EIO
        wait_until(lambda: virtiod.controller()["reconnects"] == 1, "a new session")
        assert (virtiod.controller()["kept"]["repeated"], virtiod.controller()["kept"]["records"]) == (0, 1)
        assert "quarantine" not in virtiod.controller()
        assert client.ask(READ, 0, 4096) == (0, b"w" * 4096)
        silent.kill()
        stack.enter_context(target(run_dir, *options))
        assert client.ask(READ, 0, 4096) == (0, b"w" * 4096)
        assert virtiod.controller()["kept"]["repeated"] == 1
        assert client.ask(FLUSH) == (0, b"")
        assert image.read_bytes()[:4096] == b"w" * 4096
