"""Targets with volatile caches are killed: what was acknowledged is there again, or a flush says that it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.nbd_client import FLUSH, READ, TRIM, WRITE, NbdClient
from tests.support.peers import Peer, run, storage_daemon
from tests.support.process import Daemon, daemon, target
from tests.support.rest import check_recovered
from tests.support.waiting import wait_until

MIB = 1 << 20
EIO = 5
FUA = 1
WRITE_ZEROES = 6
DATA = bytes(range(256)) * 256


class Victim:
    """A target over an image that outlives it, and virtiod's controller V0 of it."""

    def __init__(self, stack: ExitStack, run_dir: Path, kind: str, on_loss: str = "keep") -> None:
        self._stack, self._run_dir, self._kind = stack, run_dir, kind
        self._image = run_dir / "image"
        if kind == "qcow2":
            run("qemu-img", "create", "-q", "-f", "qcow2", self._image, "64M")
        else:
            self._image.write_bytes(bytes(16 * MIB))
        self.virtiod: Daemon = stack.enter_context(daemon(run_dir))
        self._peer = self._start()
        self.virtiod.attach(self._peer.socket, on_loss=on_loss)
        self.virtiod.export()

    def _start(self) -> Peer:
        if self._kind == "qcow2":
            blockdev = f"driver=qcow2,discard=unmap,file.driver=file,file.filename={self._image}"
            return self._stack.enter_context(storage_daemon(self._run_dir, blockdev, name="t"))
        return self._stack.enter_context(target(self._run_dir, "--file", self._image, "--cache"))

    def kill(self) -> None:
        self._peer.kill()

    def die(self) -> None:
        """With what its cache holds; another takes its place."""
        before = self.virtiod.controller()["reconnects"]
        self.kill()
        self._peer = self._start()
        wait_until(lambda: self.virtiod.controller()["reconnects"] > before, "the controller to return")

    def client(self) -> NbdClient:
        return self._stack.enter_context(NbdClient(self.virtiod.nbd_socket, "V0"))


@contextmanager
def victim(run_dir: Path, kind: str, on_loss: str = "keep") -> Iterator[Victim]:
    with ExitStack() as stack:
        v = Victim(stack, run_dir, kind, on_loss)
        yield v
        check_recovered(v.virtiod)


@pytest.mark.parametrize("kind", ["qcow2", "embedded"])
def test_a_write_that_was_acknowledged_survives_its_target(run_dir: Path, kind: str) -> None:
    with victim(run_dir, kind) as v:
        client = v.client()
        assert v.virtiod.bdev()["write_cache"] is True  # qemu-storage-daemon says writeback 0
        assert client.ask(WRITE, 0, data=DATA)[0] == 0
        assert v.virtiod.controller()["kept"]["bytes"] == len(DATA)
        v.die()
        assert client.ask(READ, 0, len(DATA)) == (0, DATA)
        assert client.ask(FLUSH)[0] == 0
        kept = v.virtiod.controller()["kept"]
        assert kept == {"records": 0, "bytes": 0, "flushes": 0, "repeated": 1, "losses": 0}
        v.die()
        assert client.ask(READ, 0, len(DATA)) == (0, DATA)
        assert v.virtiod.controller()["kept"]["repeated"] == 1


@pytest.mark.parametrize("kind", ["qcow2", "embedded"])
def test_a_write_with_fua_is_stable_when_it_was_acknowledged(run_dir: Path, kind: str) -> None:
    with victim(run_dir, kind, on_loss="ignore") as v:
        client = v.client()
        assert client.ask(WRITE, 4096, data=DATA, flags=FUA)[0] == 0
        v.die()
        assert client.ask(READ, 4096, len(DATA)) == (0, DATA)


@pytest.mark.parametrize("kind", ["qcow2", "embedded"])
def test_the_last_of_several_writes_zeroes_and_discards_is_there_again(run_dir: Path, kind: str) -> None:
    with victim(run_dir, kind) as v:
        client = v.client()
        assert client.ask(WRITE, 0, data=DATA)[0] == 0
        assert client.ask(FLUSH)[0] == 0
        assert client.ask(WRITE_ZEROES, 0, 16384)[0] == 0
        assert client.ask(WRITE, 4096, data=b"a" * 4096)[0] == 0
        assert client.ask(WRITE, 4096, data=b"b" * 4096)[0] == 0
        assert client.ask(TRIM, 32768, 32768)[0] == 0
        v.die()
        zeroes = bytes(4096)
        assert client.ask(READ, 0, 16384) == (0, zeroes + b"b" * 4096 + zeroes + zeroes)
        assert client.ask(READ, 16384, 16384) == (0, DATA[16384:32768])


def test_a_flush_does_not_lie_about_writes_that_were_not_kept(run_dir: Path) -> None:
    with victim(run_dir, "embedded", on_loss="report") as v:
        clients = [v.client(), v.client()]
        assert clients[0].ask(WRITE, 0, data=DATA)[0] == 0
        v.die()
        assert [client.ask(FLUSH)[0] for client in clients for _ in range(2)] == [EIO, 0, EIO, 0]
        assert [v.client().ask(FLUSH)[0] for _ in range(2)] == [0, 0]
        assert v.virtiod.controller()["kept"]["losses"] == 1
        assert "acknowledged writes that were not flushed are lost" in v.virtiod.log.read_text()
        events = v.virtiod.call("notify_get_notifications", id=0, max=100)
        assert {"type": "bdev_writes_lost", "ctx": "V0"} in [{k: e[k] for k in ("type", "ctx")} for e in events]


def test_a_detach_flushes_what_is_kept(run_dir: Path) -> None:
    with victim(run_dir, "embedded") as v:
        client = v.client()
        assert client.ask(WRITE, 0, data=DATA)[0] == 0
        assert v.virtiod.call("bdev_virtio_detach_controller", name="V0") is True
        v.kill()
        assert (run_dir / "image").read_bytes()[: len(DATA)] == DATA
        assert "ERROR" not in v.virtiod.log.read_text()
