#!/usr/bin/env python3
"""What it costs to keep writes until they are flushed: NBD writes to the embedded target with a volatile cache.

    python benchmarks/kept_writes.py [--rounds 5] [--seconds 1] [--json FILE]

A client of its own keeps 32 random 4 KiB writes in flight, with a FLUSH after each one, after each 32, or none at all.
It does so with each on_loss, in turns, so that a noisy moment hits all alike. Figures are medians, in thousands of
writes a second; the ratio is that of keep to ignore, the median of the rounds' ratios. Where no client flushes,
virtiod's own flushes are the difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from virtiod.bdev.keeping import OnLoss
from virtiod.controllers.request import AttachRequest
from virtiod.exports.nbd.exports import NbdExports
from virtiod.exports.nbd.listener import ListenAddress
from virtiod.system import System

SIZE = 64 << 20
BLOCK = 4096
DEPTH = 32
WRITE, FLUSH = 1, 3
BATCHES = 16  # made beforehand, sent in turns
REPLY = 16  # bytes
EVERY = (1, 32, 0)  # writes between two flushes; 0: no flush


def request(kind: int, offset: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, kind, 0, offset, len(data)) + data


def batch(every: int) -> tuple[bytes, int]:
    """DEPTH writes, with their flushes; how many requests."""
    sent, n = b"", 0
    for number in range(1, DEPTH + 1):
        sent += request(WRITE, random.randrange(SIZE // BLOCK) * BLOCK, os.urandom(BLOCK))
        n += 1
        if every and number % every == 0:
            sent += request(FLUSH)
            n += 1
    return sent, n


def take(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise SystemExit("the server closed the connection")
        data += piece
    return bytes(data)


def measure(path: str, export: str, every: int, seconds: float) -> float:
    """Writes a second. Blocks."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        take(sock, 18)
        name = export.encode()
        sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)
        take(sock, 10)
        batches = [batch(every) for _ in range(BATCHES)]
        done, start = 0, time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            data, n = batches[done % BATCHES]
            sock.sendall(data)
            if take(sock, n * REPLY)[4:8] != bytes(4):
                raise SystemExit("a write failed")
            done += 1
        return done * DEPTH / elapsed


async def run(rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Writes a second, round by round, by what was flushed and by policy."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        system = System([-1], 128)
        system.start()
        targets = []
        try:
            exports = system.exports.of(NbdExports)
            await exports.listen(ListenAddress.parse(f"unix:{place}/nbd"))
            policies = (OnLoss.IGNORE, OnLoss.KEEP)
            for policy in policies:
                targets.append(await asyncio.to_thread(start_target, Path(place), policy))
                await system.controllers.attach(
                    AttachRequest(policy.value, "user", f"{place}/{policy}", "blk", on_loss=policy)
                )
                await exports.create(policy.value, policy.value)
            for _ in range(rounds):
                for every in EVERY:
                    for policy in policies:
                        figure = await asyncio.to_thread(measure, f"{place}/nbd", policy.value, every, seconds)
                        found.setdefault(str(every), {}).setdefault(policy.value, []).append(figure)
        finally:
            await system.stop()
            for target in targets:
                target.terminate()
                target.wait()
    return found


def start_target(place: Path, policy: OnLoss) -> subprocess.Popen[bytes]:
    image = place / f"{policy}.img"
    image.touch()
    os.truncate(image, SIZE)
    words = ["target", str(place / policy.value), "--file", str(image), "--cache"]
    command = [sys.executable, "-m", "virtiod.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    process.stdout.readline()  # it says when it listens
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures to that file")
    options = parser.parse_args()
    found = asyncio.run(run(options.rounds, options.seconds))
    print(f"{'flush after':>12} {'ignore':>8} {'keep':>8}  ratio")
    for every, figures in found.items():
        ignore, keep = figures["ignore"], figures["keep"]
        ratio = statistics.median(a / b for a, b in zip(keep, ignore, strict=True))
        what = f"{every} writes" if every != "0" else "no writes"
        medians = f"{statistics.median(ignore) / 1000:8.1f} {statistics.median(keep) / 1000:8.1f}"
        print(f"{what:>12} {medians}  {ratio:5.2f}")
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
