"""Daemons managed from afar: ten at once, one of them dead; and one under I/O load that clients of every kind abuse."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.callers import ADMIN, READER, written
from tests.support.certificates import Certificates, certificates
from tests.support.clocks import ran_s, thread
from tests.support.peers import is_listening, run
from tests.support.process import Daemon, daemon
from tests.support.waiting import LOAD_S, PATIENCE_S, wait_until

MIN_RATIO = 0.5  # of I/Os for each second that the poller had a core: others may take the core itself away


@pytest.fixture
def certs(run_dir: Path) -> Certificates:
    written(run_dir / "tokens", f"admin alice {ADMIN}\nread-only grafana {READER}\n")
    written(run_dir / "reader", READER)
    written(run_dir / "admin", ADMIN)
    return certificates(run_dir)


def secure(run_dir: Path, certs: Certificates) -> list[str | Path]:
    """Options for HTTPS at a free port, with RPC."""
    tokens = ("--http-tokens", run_dir / "tokens", "--http-rpc")
    return ["--http", "127.0.0.1:0", "--http-cert", certs.server, *tokens]


def port(process: Daemon) -> int:
    found = re.search(r"HTTPS at 127\.0\.0\.1 port (\d+)", process.log.read_text())
    assert found is not None, process.log.read_text()
    return int(found[1])


def rpc(run_dir: Path, *words: str | Path, token: str = "reader") -> subprocess.CompletedProcess[str]:
    access = ("--ca-file", run_dir / "ca.pem", "--token-file", run_dir / token)
    command = [sys.executable, "-m", "rpc_client.cli", "-t", f"{PATIENCE_S / 2:g}", *access, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_ten_daemons_are_managed_by_one_call_though_one_is_dead(run_dir: Path, certs: Certificates) -> None:
    with ExitStack() as stack:
        daemons = []
        for number in range(10):
            folder = run_dir / f"d{number}"
            folder.mkdir()
            daemons.append(Daemon(folder, "-s", "16", *secure(run_dir, certs)))
            stack.callback(daemons[-1].stop)
        for one in daemons:
            stack.callback(one.terminate)  # goes before stop: they end side by side
        for number, one in enumerate(daemons):
            wait_until(partial(is_listening, one.socket), f"daemon {number} to listen", 2 * PATIENCE_S)
            one.call("framework_wait_init")
            one.call("bdev_null_create", name=f"Null{number}", num_blocks=2048, block_size=512)
        # Five by socket, five by URL.
        addresses = [f"unix:{one.socket}" for one in daemons[:5]]
        addresses += [f"https://127.0.0.1:{port(one)}" for one in daemons[5:]]
        lines = [f"host{number} {address}\n" for number, address in enumerate(addresses)]
        (run_dir / "hosts").write_text("".join(lines))

        done = rpc(run_dir, "--hosts", run_dir / "hosts", "bdev_get_bdevs")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 11

        daemons[7].kill()
        done = rpc(run_dir, "--hosts", run_dir / "hosts", "bdev_get_bdevs")
        rows = [line.split() for line in done.stdout.splitlines()]
        assert done.returncode == 3
        assert [row[:2] for row in rows if row[0] not in {"HOST", "host7"}] == [
            [f"host{number}", f"Null{number}"] for number in range(10) if number != 7
        ]
        (dead,) = [row for row in rows if row[0] == "host7"]
        assert " ".join(dead).endswith("/rpc: Connection refused")

        done = rpc(run_dir, "--json", *(word for one in addresses for word in ("--url", one)), "spdk_get_version")
        assert done.returncode == 3
        assert ["error" in one for one in json.loads(done.stdout)] == [number == 7 for number in range(10)]


class Abuse:
    """Clients that mean no good, in threads, until they are told to stop. `got` counts what they got."""

    def __init__(self, where: int, token: str) -> None:
        self.port, self.token = where, token
        self.got: dict[str, int] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._flood) for _ in range(3)] + [threading.Thread(target=self._slow)]

    def __enter__(self) -> Abuse:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def _flood(self) -> None:
        """Long bodies without a token, as fast as they go."""
        while not self._over.is_set():
            try:
                with closing(socket.create_connection(("127.0.0.1", self.port), 1)) as one:
                    one.sendall(b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b" " * 20000)
                    answer = one.recv(100)
                what = answer[9:12].decode("ascii", "replace") or "closed"
            except OSError as error:
                what = type(error).__name__
            self.got[what] = self.got.get(what, 0) + 1

    def _slow(self) -> None:
        """Connections that say a byte now and then."""
        with ExitStack() as stack:
            slow: list[socket.socket] = []
            while not self._over.wait(0.01):
                with suppress(OSError):  # it may get no connection at all
                    if len(slow) < 200:
                        one = socket.create_connection(("127.0.0.1", self.port), 1)
                        slow.append(stack.enter_context(closing(one)))
                for one in list(slow):
                    try:
                        one.send(b"x")
                    except OSError:
                        self.got["slow one cut off"] = self.got.get("slow one cut off", 0) + 1
                        slow.remove(one)
                        one.close()


def efficiency(process: Daemon, seconds: float) -> float:
    """I/Os for each second that the poller had a core, of so many such seconds."""
    (reactor,) = process.call("framework_get_reactors")["reactors"]
    poller = [thread(reactor["tid"])]
    ran, ios = ran_s(poller), process.ops("Null0")
    wait_until(lambda: ran_s(poller) - ran >= seconds, "the load to go on")
    more_ios, more_ran = process.ops("Null0"), ran_s(poller)
    return (more_ios - ios) / (more_ran - ran)


def test_io_goes_on_while_clients_abuse_http(run_dir: Path, certs: Certificates) -> None:
    with daemon(run_dir, "--http", "127.0.0.1:0", "--http-tokens", run_dir / "tokens", "--http-rpc") as process:
        process.call("bdev_null_create", name="Null0", num_blocks=1 << 20, block_size=512)
        load = process.send("perform_tests", bdevs=["Null0"], rw="randread", queue_depth=32, time_s=LOAD_S)
        process.wait_busy("Null0")
        where = re.search(r"HTTP at 127\.0\.0\.1 port (\d+)", process.log.read_text())
        assert where is not None
        alone = efficiency(process, 1.0)
        with Abuse(int(where[1]), READER) as abuse:
            abused = efficiency(process, 1.5)
            wait_until(lambda: abuse.got.get("slow one cut off"), "slow ones to be cut off")
            version = process.call("spdk_get_version")  # the Unix socket is not held up
        load.cancel()
        assert version["fields"]
        assert abused > alone * MIN_RATIO, (alone, abused, abuse.got)
        assert {"401", "429"} & set(abuse.got), abuse.got
        assert not {"200", "500", "504"} & set(abuse.got), abuse.got
        # and afterwards it serves again
        wait_until(lambda: healthy(int(where[1])), "health to be answered")
        assert "Traceback" not in process.log.read_text()


def healthy(where: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", where), 1)) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return one.recv(100).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def test_curl_sees_what_a_long_body_and_a_wrong_token_get(run_dir: Path, certs: Certificates) -> None:
    (run_dir / "body").write_bytes(b" " * 10_000_000)
    with daemon(run_dir, *secure(run_dir, certs)) as process:
        url = f"https://127.0.0.1:{port(process)}"

        def curl(*words: str | Path, token: str = ADMIN) -> str:
            shown = ("-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", certs.ca)
            return run("curl", *shown, "-H", f"Authorization: Bearer {token}", *words)

        assert curl("--data-binary", f"@{run_dir / 'body'}", f"{url}/rpc") == "413"
        assert curl("--data-binary", '{"method": "bdev_get_bdevs", "id": 1}', f"{url}/rpc") == "200"
        assert curl("--path-as-is", f"{url}/rpc/../../../../etc/passwd") == "404"
        assert curl(f"{url}/metrics", token="wrong") == "401"
        assert curl(f"{url}/healthz", token="wrong") == "200"
        done = rpc(run_dir, "--url", url, "bdev_null_create", "N0", "8")
        assert (done.returncode, "needs the role admin" in done.stderr) == (1, True)
        done = rpc(run_dir, "--url", url, "bdev_null_create", "N0", "8", token="admin")
        assert done.stdout == "N0\n"
        audited = [line for line in process.log.read_text().splitlines() if "virtiod.rpc.audit" in line]
        assert [re.sub(r".*audit: |[\d.]+ ms", "", line).split(":")[0] for line in audited] == [
            "grafana at 127.0.0.1 (read-only)",
            "alice at 127.0.0.1 (admin)",
        ]
