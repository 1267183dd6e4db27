#!/usr/bin/env python3
"""An NBD client that costs little: sends batches of 4 KiB reads, one system call each, takes the answers in bulk.

    python benchmarks/nbd_batches.py SOCKET DEPTH SECONDS

Where fio's own system calls are what is measured, this shows what a server can do. Each batch of DEPTH random reads is
sent when the one before is answered. Prints a line of JSON: IOPS, and the share of a core that the client used.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import time

SIZE = 1 << 30
BLOCK = 4096
REPLY = 16 + BLOCK  # NBD protocol: a simple reply, then the data
BATCHES = 64  # made beforehand, sent in turns


def negotiate(sock: socket.socket) -> None:
    """Fixed newstyle, NBD_OPT_EXPORT_NAME, simple replies."""
    take(sock, 18)
    sock.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
    name = b"disk"
    sock.sendall(struct.pack(">8sII", b"IHAVEOPT", 1, len(name)) + name)
    take(sock, 10)


def take(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise SystemExit("the server closed the connection")
        data += piece
    return bytes(data)


def batch(depth: int) -> bytes:
    reads = (
        struct.pack(">IHHQQI", 0x25609513, 0, 0, n, random.randrange(SIZE // BLOCK) * BLOCK, BLOCK)
        for n in range(depth)
    )
    return b"".join(reads)


def main() -> None:
    path, depth, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        negotiate(sock)
        batches = [batch(depth) for _ in range(BATCHES)]
        buffer = memoryview(bytearray(depth * REPLY))
        done, cpu, start = 0, time.process_time(), time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            sock.sendall(batches[done % BATCHES])
            got = 0
            while got < len(buffer):
                n = sock.recv_into(buffer[got:])
                if not n:
                    raise SystemExit("the server closed the connection")
                got += n
            for at in range(0, len(buffer), REPLY):
                if bytes(buffer[at : at + 8]) != b"\x67\x44\x66\x98\0\0\0\0":
                    raise SystemExit("an answer is not a simple reply without an error")
            done += 1
        print(json.dumps({"iops": done * depth / elapsed, "cpu": (time.process_time() - cpu) / elapsed}))


if __name__ == "__main__":
    main()
