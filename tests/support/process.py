"""The daemon and the embedded target as processes, and what tests ask of them."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support import sharing
from tests.support.clocks import ran_s, threads
from tests.support.peers import Peer, nbd_uri, peer
from tests.support.waiting import PATIENCE_S, wait_until

CALL_S = PATIENCE_S
END_S = PATIENCE_S  # for an orderly end


class RpcFailure(Exception):
    """An error response."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Pending:
    """A call that was sent on a connection of its own; result() waits for the answer."""

    def __init__(self, path: Path, method: str, params: dict[str, Any]) -> None:
        self.method = method
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_S)
        try:
            self.sock.connect(str(path))
            self.sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
        except OSError:
            self.sock.close()
            raise

    def result(self, seconds: float = CALL_S) -> Any:
        """The result; raises RpcFailure for an error, EOFError when the daemon hung up."""
        self.sock.settimeout(seconds)
        with self.sock, self.sock.makefile() as lines:
            line = lines.readline()
        if not line:
            raise EOFError(self.method)
        answer = json.loads(line)
        if "error" in answer:
            raise RpcFailure(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def cancel(self) -> None:
        """Hang up."""
        self.sock.close()


class Daemon(Peer):
    """`virtiod`, with RPC at run_dir/rpc and NBD beside it, and one poller unless options say otherwise."""

    def __init__(self, run_dir: Path, *options: str | Path) -> None:
        self.run_dir = run_dir
        self.nbd_socket = run_dir / "rpc-nbd.sock"
        number = len(list(run_dir.glob("daemon*.log")))
        words = ["-r", run_dir / "rpc", "--http", "none", *(() if "-m" in options else ("-m", cpumask(1)))]
        command = [sys.executable, "-m", "virtiod.cli", *words, *options]
        super().__init__(command, run_dir / f"daemon{number}.log", run_dir / "rpc")
        self.calls: list[Pending] = []

    def send(self, method: str, **params: Any) -> Pending:
        """Start a call. It is cancelled at the daemon's end at the latest."""
        self.calls.append(Pending(self.socket, method, params))
        return self.calls[-1]

    def call(self, method: str, **params: Any) -> Any:
        return Pending(self.socket, method, params).result()

    def attach(self, target: Path, name: str = "V0", **params: Any) -> None:
        assert self.call(
            "bdev_virtio_attach_controller", name=name, trtype="user", traddr=str(target), dev_type="blk", **params
        ) == [name]

    def attach_scsi(self, target: Path, name: str = "S0", **params: Any) -> list[str]:
        """The names of the bdevs."""
        found = self.call(
            "bdev_virtio_attach_controller", name=name, trtype="user", traddr=str(target), dev_type="scsi", **params
        )
        return list(found)

    def export(self, bdev: str = "V0") -> str:
        """The URI of a new export of the bdev."""
        assert self.call("nbd_create_export", bdev_name=bdev)["uris"] == [nbd_uri(self.nbd_socket, bdev)]
        return nbd_uri(self.nbd_socket, bdev)

    def controller(self, name: str = "V0") -> dict[str, Any]:
        (found,) = self.call("virtiod_get_controllers", name=name)
        return of_json(found)

    def bdev(self, name: str = "V0") -> dict[str, Any]:
        (found,) = self.call("bdev_get_bdevs", name=name)
        return of_json(found)

    def iostat(self, name: str = "V0") -> dict[str, Any]:
        (found,) = self.call("bdev_get_iostat", names=[name])["bdevs"]
        return of_json(found)

    def ops(self, name: str = "V0") -> int:
        """Reads and writes that have succeeded."""
        stat = self.iostat(name)
        return int(stat["num_read_ops"] + stat["num_write_ops"])

    def wait_busy(self, name: str = "V0", more: int = 100) -> None:
        """Until so many more I/Os have succeeded."""
        start = self.ops(name)
        wait_until(lambda: self.ops(name) >= start + more, f"{more} I/Os on {name}")

    def ends(self, code: int = 0, seconds: float = END_S) -> None:
        """It exits with the code, and no socket is left."""
        wait_until(lambda: self.process.poll() is not None, "the daemon to end", seconds)
        assert self.process.returncode == code, self.log.read_text()
        assert [path.name for path in (self.socket, self.nbd_socket) if path.exists()] == []

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def cpu_s(self) -> float:
        """CPU time of all threads."""
        return ran_s(threads(self.process.pid))


def of_json(value: object) -> dict[str, Any]:
    """A JSON object, as such."""
    assert isinstance(value, dict), value
    return value


AnyDaemon = TypeVar("AnyDaemon", bound=Daemon)


@contextmanager
def daemon(run_dir: Path, *options: str | Path) -> Iterator[Daemon]:
    """From running to its end, which must be an orderly one unless the test has ended it already."""
    with orderly(Daemon(run_dir, *options), wait="--wait-for-rpc" not in options) as process:
        yield process


@contextmanager
def orderly(process: AnyDaemon, wait: bool = True) -> Iterator[AnyDaemon]:
    """daemon() of another kind."""
    try:
        process.wait_listening()
        if wait:
            process.call("framework_wait_init")
        yield process
        if process.process.poll() is None:
            process.terminate()
            process.ends()
    except BaseException:
        if sys.exc_info()[0] is not GeneratorExit:
            print(process.log.read_text())
        raise
    finally:
        for call in process.calls:
            call.cancel()
        if process.process.poll() is None:
            process.kill()


@contextmanager
def target(run_dir: Path, *options: str | Path, name: str = "t", count: int = 1) -> Iterator[Peer]:
    """The embedded target, at run_dir/NAME.sock (and NAME1.sock, ...)."""
    sockets = [run_dir / f"{name}{index or ''}.sock" for index in range(count)]
    command: list[str | Path] = [sys.executable, "-m", "virtiod.cli", "target", *sockets, *options]
    with peer(run_dir, command, sockets[-1]) as process:
        process.socket = sockets[0]
        yield process


def spdk_module() -> Any:
    """SPDK's client, or the test is skipped."""
    return pytest.importorskip("spdk", reason="SPDK's client is not installed (pip install spdk)")


def allowed_cpus(count: int) -> list[int]:
    """Cores for so many pollers; the test is skipped when there are fewer."""
    found = sharing.cores(count)
    if not found:
        pytest.skip(f"{count} cores are needed")
    return found


def cpumask(count: int) -> str:
    return f"[{','.join(map(str, allowed_cpus(count)))}]"
