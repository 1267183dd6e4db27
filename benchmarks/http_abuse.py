#!/usr/bin/env python3
"""Measures what abusive HTTP clients get, and how much I/O they cost.

    python benchmarks/http_abuse.py [--seconds 10] [--rate 10000] [--slow 200] [--json FILE]

A daemon with tokens and RPC over HTTP serves a load of 4 KiB random reads of a null bdev at queue depth 32. Phases: a
flood of requests with a reader's token, each on a connection of its own, at `rate` if the machine can; `slow`
connections that send a byte of a header now and then, and are made anew when they are cut off; bodies of 10 MB. Each
phase comes after one without clients, and the ratio is of those two. The clients and the daemon's main thread are kept
off the poller's core if there is another; the ratio of I/Os for each second that the poller had its core is told too.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

START_S = 30.0
MAX_OPEN = 500  # connections of a flood at once
ANSWER_S = 2.0  # for an answer, before a connection counts as unanswered
READER, ADMIN = "reader-of-the-benchmark", "admin-of-the-benchmark"
HEAD = b"POST /rpc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % READER.encode()
CALL = b'{"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"}'
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(CALL), CALL)


class Load:
    """The daemon under load, asked over its Unix socket."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v-", dir="/tmp")))
        tokens, log, self.path = folder / "tokens", folder / "log", folder / "rpc"
        tokens.touch(mode=0o600)
        tokens.write_text(f"read-only reader {READER}\nadmin admin {ADMIN}\n")
        http = ("--http", "127.0.0.1:0", "--http-tokens", str(tokens), "--http-rpc")
        command = [sys.executable, "-m", "virtiod.cli", "run", "-r", str(self.path), *http]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stderr=output)
        stack.callback(self.process.wait, START_S)
        stack.callback(self.process.send_signal, signal.SIGTERM)
        deadline = time.monotonic() + START_S
        while "running: " not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
            time.sleep(0.02)
        found = re.search(r"HTTP at \S+ port (\d+)", log.read_text())
        assert found is not None
        self.port = int(found[1])
        self.call("bdev_null_create", name="N0", num_blocks=1 << 20, block_size=512)
        self.running = stack.enter_context(self.connect())
        self.send(self.running, "perform_tests", bdevs=["N0"], rw="randread", queue_depth=32, time_s=600)
        reactor = self.call("framework_get_reactors")["reactors"][0]
        self.tid = reactor["tid"]
        others = os.sched_getaffinity(0) - {reactor["lcore"]}
        if others:
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(self.process.pid, others)  # its main thread only

    def connect(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(START_S)
        found.connect(str(self.path))
        return found

    @staticmethod
    def send(to: socket.socket, method: str, **params: Any) -> None:
        to.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    def call(self, method: str, **params: Any) -> Any:
        with self.connect() as sock:
            self.send(sock, method, **params)
            return json.loads(sock.makefile().readline())["result"]

    def look(self) -> tuple[int, float, float]:
        """Reads that are done, seconds that the poller had a core, and the time."""
        reads = self.call("bdev_get_iostat")["bdevs"][0]["num_read_ops"]
        ran = Path(f"/proc/{self.process.pid}/task/{self.tid}/schedstat").read_text().split()[0]
        return reads, int(ran) / 1e9, time.monotonic()

    def during(self, work: Callable[[], None]) -> tuple[float, float]:
        """IOPS, and I/Os for each second that the poller had a core."""
        reads, ran, then = self.look()
        work()
        more_reads, more_ran, now = self.look()
        return (more_reads - reads) / (now - then), (more_reads - reads) / (more_ran - ran)


def flood(port: int, rate: float, seconds: float) -> Counter[str]:
    """Requests at the rate, whether those before were answered or not."""
    got: Counter[str] = Counter()
    opened: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector:

        def end(one: socket.socket, what: str) -> None:
            got[what] += 1
            selector.unregister(one)
            del opened[one]
            one.close()

        started, offered = time.monotonic(), 0
        while (now := time.monotonic()) - started < seconds or opened:
            due = int(rate * min(now - started, seconds)) - offered
            for _ in range(min(due, MAX_OPEN - len(opened))):
                one = socket.socket()
                one.setblocking(False)
                offered += 1
                if one.connect_ex(("127.0.0.1", port)) not in {0, errno.EINPROGRESS}:
                    got["no connection"] += 1
                    one.close()
                    continue
                opened[one] = now
                selector.register(one, selectors.EVENT_WRITE)
            for key, events in selector.select(0.005):
                assert isinstance(key.fileobj, socket.socket)
                one = key.fileobj
                try:
                    if events & selectors.EVENT_WRITE:
                        one.send(REQUEST)
                        selector.modify(one, selectors.EVENT_READ)
                    else:
                        end(one, one.recv(200)[9:12].decode("ascii", "replace") or "closed")
                except OSError as error:
                    end(one, os.strerror(error.errno or 0))
            for one in [one for one, since in opened.items() if now - since > ANSWER_S]:
                end(one, "unanswered")
    got["offered a second"] = round(offered / seconds)
    return got


def slow(port: int, count: int, seconds: float) -> Counter[str]:
    """Connections that say a byte every 0.1 s, and come back when they are cut off."""
    got: Counter[str] = Counter()
    opened: list[socket.socket] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for _ in range(count - len(opened)):
            try:
                one = socket.create_connection(("127.0.0.1", port), ANSWER_S)
                one.send(b"GET /metrics HTTP/1.1\r\nX: ")
            except OSError as error:
                got[os.strerror(error.errno or 0)] += 1
                break
            opened.append(one)
            got["opened"] += 1
        for one in list(opened):
            try:
                one.send(b"x")
            except OSError:
                got["cut off"] += 1
                opened.remove(one)
                one.close()
        time.sleep(0.1)
    for one in opened:
        one.close()
    return got


def bodies(port: int, seconds: float) -> Counter[str]:
    """Bodies of 10 MB, one after the other, as far as they are taken."""
    got: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as one:
            one.settimeout(ANSWER_S)
            try:
                one.connect(("127.0.0.1", port))
                one.sendall(HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 100_000)
                got[one.recv(200)[9:12].decode("ascii", "replace") or "closed"] += 1
            except OSError as error:
                got[os.strerror(error.errno or 0)] += 1
        time.sleep(0.02)
    return got


def ask(port: int, raw: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as one:
        one.sendall(raw)
        answer = one.makefile("rb").read().decode("utf-8", "replace")
    status, _, body = answer.partition("\r\n")[0].removeprefix("HTTP/1.1 "), "", answer.partition("\r\n\r\n")[2]
    return f"{status}: {body.strip()[:100]}" if body else status or "closed"


def single(port: int) -> dict[str, str]:
    """One of each."""
    create = b'{"id": 1, "method": "bdev_null_delete", "params": {"name": "N0"}}'
    wrong = REQUEST.replace(READER.encode(), b"wrong-token-of-nobody")
    return {
        "no token": ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
        "wrong token": ask(port, wrong),
        "reader calls an admin's method": ask(port, HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(create), create)),
        "path traversal": ask(port, HEAD.replace(b"/rpc", b"/rpc/../../etc/passwd") + b"Content-Length: 0\r\n\r\n"),
        "TLS to a port without": ask(port, bytes.fromhex("16030100050100000100")),
        "wrong tokens x 20": str(dict(Counter(ask(port, wrong)[:3] for _ in range(20)))),
    }


def counted(phase: Callable[[], Counter[str]], got: Counter[str]) -> None:
    """Run a phase, and add what it got."""
    got.update(phase())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each phase (default: %(default)g)")
    parser.add_argument(
        "--rate", type=float, default=10_000.0, help="requests per second to send (default: %(default)g)"
    )
    parser.add_argument("--slow", type=int, default=200, help="number of slow connections (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        load = Load(stack)
        phases: dict[str, Callable[[], Counter[str]]] = {
            f"flood, {args.rate:g}/s": lambda: flood(load.port, args.rate, args.seconds),
            f"slow x {args.slow}": lambda: slow(load.port, args.slow, args.seconds),
            "bodies of 10 MB": lambda: bodies(load.port, args.seconds),
        }
        for name, phase in phases.items():
            alone, alone_core = load.during(partial(time.sleep, args.seconds / 2))
            got: Counter[str] = Counter()
            abused, abused_core = load.during(partial(counted, phase, got))
            ratios = {"iops": round(abused / alone, 3), "per core second": round(abused_core / alone_core, 3)}
            results[name] = {"got": dict(got), "ratio": ratios, "iops alone": round(alone)}
            print(
                f"{name}: the clients got {dict(got)}\n"
                f"  I/O, as a ratio to I/O without clients: {ratios} ({alone / 1e6:.2f} M IOPS without)",
                flush=True,
            )
        time.sleep(3)  # what the flood used up comes back
        results["single"] = single(load.port)
        for name, answer in results["single"].items():
            print(f"{name}: {answer}")
    if args.json:
        args.json.write_text(json.dumps({**vars(args), **results}, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
